// Calls of the services, over Connect with JSON.

const BASE = new URL("./", document.baseURI);
const TOKEN = "palm-token";
const DIALOGUE = "palm_serve.v1.DialogueUnderstanding";

export const UNIT = "OFFSET_UNIT_UTF16"; // the unit of strings in JavaScript
export const TOP_K = 10;

// A call that failed. `code` is Connect's, or "offline".
export class CallError extends Error {
	constructor(code, message, retryAfter = 1) {
		super(message);
		this.code = code;
		this.retryAfter = retryAfter;
	}
}

export const address = (path) => new URL(path, BASE).href;
export const hasToken = () => Boolean(sessionStorage.getItem(TOKEN));
export const setToken = (token) => sessionStorage.setItem(TOKEN, token.trim());

async function send(path, options) {
	const headers = { ...options.headers };
	const token = sessionStorage.getItem(TOKEN);
	if (token) headers.authorization = `Bearer ${token}`;
	let response;
	try {
		response = await fetch(address(path), { ...options, headers, cache: "no-store" });
	} catch (error) {
		if (error.name === "AbortError") throw error;
		throw new CallError("offline", "The server does not answer.");
	}
	const body = await response.json().catch(() => ({}));
	if (response.ok) return body;
	const code = body.code || { 401: "unauthenticated", 403: "permission_denied" }[response.status] || "unknown";
	const message = body.message || body.error || `The server answered with status ${response.status}.`;
	throw new CallError(code, message, Number(response.headers.get("retry-after")) || 1);
}

export function post(path, message, signal) {
	const headers = { "content-type": "application/json" };
	return send(path, { method: "POST", headers, body: JSON.stringify(message), signal });
}

// Return false while the server loads or drains.
export async function isServing() {
	return (await post("grpc.health.v1.Health/Check", {})).status === "SERVING";
}

export async function listModels() {
	return (await post("palm_serve.v1.Models/ListModels", {})).models || [];
}

export async function examples(choice) {
	return (await send(`playground/examples?${new URLSearchParams(choice)}`, {})).examples || [];
}

// Return the request of a text. Values that are not set are left out.
export function parseRequest(text, { model, version }, thresholds = {}) {
	const request = { text, offsetUnit: UNIT, topK: TOP_K };
	if (model) request.model = model;
	if (version) request.version = version;
	if (Object.keys(thresholds).length) request.thresholds = thresholds;
	return request;
}

export const PARSE = `${DIALOGUE}/Parse`;
export const parse = (request, signal) => post(PARSE, request, signal);
export const predict = (request) => post("palm_serve.v1.Prediction/Predict", request);
export const saveCorrection = (row) => post("playground/feedback", row);

export async function parseBatch(requests, signal) {
	return (await post(`${DIALOGUE}/ParseBatch`, { requests }, signal)).items || [];
}
