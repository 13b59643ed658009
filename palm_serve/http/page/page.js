// The playground: what is asked, of whom, and the state of the server.

import * as api from "./api.js";
import { answerCard, spoken, taskPart } from "./answer.js";
import { startBatch } from "./batch.js";
import { Editor } from "./editor.js";
import { markValues, startThresholds, thresholdsOf } from "./thresholds.js";
import { snippet } from "./snippets.js";
import { $, el, on, say } from "./text.js";

const PAUSE_MS = 150; // after the last key, before the text is asked
const LOOK_MS = 5000;
const RETRY_MS = 1000;

let models = [];
let asked = null; // the text, its request and its answers
let running = null;
let timer = 0;
let seen = "wait";
const editor = new Editor($("editor"), $("text"));

const STATES = {
	ready: ["Ready"],
	wait: ["Connecting"],
	loading: ["Loading", "The server loads its models", "The page goes on by itself once they are ready."],
	draining: ["Draining", "The server is about to stop", "The page connects again by itself."],
	offline: ["Offline", "The server does not answer", "The page tries again by itself."],
	token: ["Token needed", "This server asks for a token"],
	error: ["Error", "The text was not answered"],
};
const BROKEN = ["loading", "draining", "offline"]; // what may end by itself

function show(state, detail) {
	seen = state;
	const [word, title, text] = STATES[state];
	$("state").dataset.state = $("notice").dataset.state = state;
	say("state", word);
	$("notice").hidden = !title;
	$("sign-in").hidden = state !== "token";
	say("notice-title", title || "");
	say("notice-text", detail || text || "");
	if (state === "token") $("token").focus();
}

function fail(error) {
	if (error.name === "AbortError") return;
	if (!(error instanceof api.CallError)) throw error;
	const { code, message, retryAfter } = error;
	if (code === "offline") show("offline");
	else if (code === "unauthenticated") show("token", api.hasToken() && message);
	else if (code === "unavailable") show(/loading/.test(message) ? "loading" : "draining", message);
	else if (code === "resource_exhausted") {
		show("error", `${message} The page asks again in ${retryAfter} s.`);
		schedule(retryAfter * 1000);
	} else show("error", message);
}

// Look how the server is, and go on once it is ready.
async function look() {
	if (!document.hidden && seen !== "token") {
		try {
			const isServing = await api.isServing();
			if (isServing && BROKEN.includes(seen)) await connect();
			else if (!isServing && seen === "ready") show("draining");
		} catch (error) {
			if (error.code === "offline") show("offline");
		}
	}
	setTimeout(look, BROKEN.includes(seen) ? RETRY_MS : LOOK_MS);
}

async function connect() {
	try {
		models = await api.listModels();
	} catch (error) {
		// A token without the scope `read` can still ask the default model.
		if (error.code !== "permission_denied") return fail(error);
		models = [];
	}
	show("ready");
	fillModels();
	await showExamples();
	ask();
}

const option = (value, text) => el("option", { value }, text);
const shortVersion = ({ labels = [], version }) => [...labels, version.slice(0, 8)].join(" · ");
const ofModel = () => models.filter((model) => model.name === $("model").value);
const choice = (id = "version") => ({ model: $("model").value, version: $(id).value });

// Fill a list. What was chosen stays chosen if it is there.
function fill(id, ...options) {
	const before = $(id).value;
	$(id).replaceChildren(...options);
	if (options.some((one) => one.value === before)) $(id).value = before;
	$(id).disabled = options.length < 2;
}

function fillModels() {
	const names = [...new Set(models.map((model) => model.name))];
	fill("model", ...(names.length ? names : [""]).map((name) => option(name, name || "default")));
	fillVersions();
}

function fillVersions() {
	const versions = ofModel();
	const options = () => versions.map((model) => option(model.version, shortVersion(model)));
	fill("version", option("", "as for clients"), ...options());
	fill("other", option("", "nothing"), ...(versions.length > 1 ? options() : []));
	const model = currentModel();
	say("about", model ? `${model.name} · ${model.provider} · ${model.precision} · reads ${model.maxLengthTokens} tokens` : "");
	const pairs = (model?.tasks || []).filter((task) => /^(match|mrc)$/.test(task.kind));
	$("pair-tasks").hidden = !pairs.length;
	fill("pair-task", ...pairs.map((task) => option(task.name, task.name)));
	$("pair-task").disabled = false;
}

function currentModel(version = $("version").value) {
	const versions = ofModel();
	return versions.find((model) => (version ? model.version === version : model.labels?.includes("stable"))) || versions[0];
}

async function showExamples() {
	let texts = [];
	try {
		texts = await api.examples(choice());
	} catch (error) {
		if (error.code !== "permission_denied") fail(error);
	}
	const chip = (example) => el("button.chip", { dir: "auto", onclick: () => take(example) }, example.text);
	$("examples").replaceChildren(...texts.map(chip));
	$("examples").hidden = !texts.length;
}

function take(example) {
	$("text").value = example.text;
	if (example.text_pair) $("pair-text").value = example.text_pair;
	grow();
	ask();
}

function schedule(delay = PAUSE_MS) {
	clearTimeout(timer);
	timer = setTimeout(ask, delay);
}

// Ask for the text in the box, instead of an earlier one.
async function ask() {
	clearTimeout(timer);
	running?.abort();
	const text = $("text").value;
	if (!text.trim()) return clear();
	const own = (running = new AbortController());
	const ids = $("other").value ? ["version", "other"] : ["version"];
	const requests = ids.map((id) => api.parseRequest(text, choice(id), thresholdsOf()));
	const started = performance.now();
	try {
		const answers = await Promise.all(requests.map((request) => api.parse(request, own.signal)));
		asked = { text, answers, request: requests[0], took: performance.now() - started };
		if (seen !== "draining") show("ready");
		render();
	} catch (error) {
		if (error.name !== "AbortError") $("answers").classList.add("stale");
		fail(error);
	}
}

function clear() {
	asked = null;
	$("answers").replaceChildren();
	$("empty").hidden = false;
	$("more").hidden = true;
	say("spoken", "");
	editor.close();
	if (seen === "error") show("ready");
}

function render() {
	const { text, answers, took } = asked;
	$("empty").hidden = true;
	$("more").hidden = false;
	$("answers").className = answers.length > 1 ? "answers two" : "answers";
	const card = (answer, i) => {
		const model = models.find((one) => one.version === answer.version);
		return answerCard(text, answer, {
			title: model ? `${model.name} · ${shortVersion(model)}` : answer.model || "answer",
			other: answers[1 - i],
			took: answers.length === 1 && took,
			oncorrect: i === 0 && (() => editor.open(text, answer, currentModel(answer.version))),
		});
	};
	$("answers").replaceChildren(...answers.map(card));
	say("spoken", spoken(answers[0]));
	say("json", JSON.stringify(answers.length === 1 ? answers[0] : answers, null, 2));
	markValues(answers[0]);
	if (!editor.isOf(text)) editor.close();
	say("snippet", snippet(kind, asked.request));
}

let kind = "curl";

async function copy(button) {
	kind = button.dataset.copy;
	say("snippet", snippet(kind, asked.request));
	try {
		await navigator.clipboard.writeText($("snippet").textContent);
		say("copied", "Copied");
	} catch {
		// Without HTTPS, a browser lets only pages of this machine use the clipboard.
		document.getSelection().selectAllChildren($("snippet"));
		say("copied", "Selected: press Ctrl+C");
	}
}

function grow() {
	const { style } = $("text");
	style.height = "auto";
	style.height = `${Math.min($("text").scrollHeight + 2, 320)}px`;
}

const TABS = ["tab-one", "tab-many"];

function choose(chosen) {
	for (const id of TABS) {
		const tab = $(id);
		tab.setAttribute("aria-selected", id === chosen);
		tab.tabIndex = id === chosen ? 0 : -1;
		$(tab.getAttribute("aria-controls")).hidden = id !== chosen;
	}
}

async function answerPair(event) {
	event.preventDefault();
	const task = $("pair-task").value;
	const request = { task, text: $("text").value, textPair: $("pair-text").value, offsetUnit: api.UNIT, topK: api.TOP_K, ...choice() };
	try {
		const answer = await api.predict(request);
		$("pair-answer").replaceChildren(taskPart(request.text, answer.result || {}));
	} catch (error) {
		fail(error);
	}
}

function start() {
	for (const [i, id] of TABS.entries()) {
		on(id, "click", () => choose(id));
		on(id, "keydown", (event) => {
			if (!/^Arrow(Left|Right)$/.test(event.key)) return;
			choose(TABS[1 - i]);
			$(TABS[1 - i]).focus();
		});
	}
	const open = (text) => {
		choose("tab-one");
		take({ text });
		$("text").focus();
	};
	startThresholds(() => schedule());
	startBatch({ choice, open, fail });
	on("text", "input", () => {
		grow();
		schedule();
	});
	on("text", "keydown", (event) => {
		if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
		event.preventDefault();
		ask();
	});
	on("model", "change", async () => {
		fillVersions();
		await showExamples();
		ask();
	});
	on("version", "change", ask);
	on("other", "change", ask);
	on("code", "click", ({ target }) => target.dataset.copy && copy(target));
	on("pair-form", "submit", answerPair);
	on("sign-in", "submit", (event) => {
		event.preventDefault();
		api.setToken($("token").value);
		$("token").value = "";
		connect();
	});
	$("text").focus();
	connect();
	setTimeout(look, LOOK_MS);
}

start();
