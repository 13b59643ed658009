// Many texts: a table that can be sorted, filtered and exported.

import { CallError, parseBatch, parseRequest } from "./api.js";
import { differences } from "./answer.js";
import { spanRow } from "./editor.js";
import { markedText, spansOf } from "./marks.js";
import { thresholdsOf } from "./thresholds.js";
import { $, download, el, number, on, percent, say, textsOfFile } from "./text.js";

const CHUNK = 50; // texts of one request
const PAGE = 50; // rows that are shown at once
const ATTEMPTS = 5;
const PAINT_MS = 200; // between two paintings while answers arrive
const FAILED = -1; // the worst confidence

const COLUMNS = {
	number: ["Line", (row) => row.number],
	text: ["Text", (row) => row.text],
	intent: ["Intent", (row) => row.answer?.intent?.name || ""],
	confidence: ["Confidence", (row) => (row.answer ? row.answer.intent?.confidence || 0 : FAILED)],
	fallback: ["Fallback", (row) => (row.answer?.fallback?.triggered ? row.answer.fallback.reason : "")],
};
const FILTERS = {
	all: ["all", () => true],
	fallback: ["with fallback", (row) => row.answer?.fallback?.triggered],
	failed: ["failed", (row) => row.error],
	differs: ["that differ", (row) => row.differs],
};

let rows = [];
let sorting = { key: "confidence", sign: 1 };
let first = 0; // of the rows that are shown
let filter = "all";
let stop = null;
let painted = 0;
let hasTwo = false;
let page = null;

function shownRows() {
	const value = COLUMNS[sorting.key][1];
	const order = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
	const shown = rows.filter((row) => row.isDone && FILTERS[filter][1](row));
	return shown.sort((one, other) => sorting.sign * order(value(one), value(other)) || one.number - other.number);
}

function head([key, [name]]) {
	const { sign } = sorting.key === key ? sorting : { sign: 0 };
	const sort = () => {
		sorting = { key, sign: sign === 1 ? -1 : 1 };
		first = 0;
		render();
		document.querySelector(`[data-key="${key}"]`).focus();
	};
	const order = { "-1": "descending", 0: "none", 1: "ascending" }[sign];
	const arrow = el("span", { "aria-hidden": "true" }, { "-1": " ↓", 0: "", 1: " ↑" }[sign]);
	return el("th", { scope: "col", "aria-sort": order }, el("button", { "data-key": key, onclick: sort }, name, arrow));
}

function marked(row, answer, other) {
	return markedText(row.text, spansOf(answer?.slots), { isOdd: differences(answer || {}, other).isOdd, isSmall: true });
}

function bodyRow(row) {
	const { answer, error } = row;
	const open = el("button.open", { "aria-label": `Open line ${row.number}`, onclick: () => page.open(row.text) }, row.number);
	const cells = [el("td", open), el("td", marked(row, answer, row.other))];
	if (error) cells.push(el("td.failed", { colspan: 3 }, `⚠ ${error}`));
	else {
		const reason = COLUMNS.fallback[1](row);
		const confidence = answer.intent && percent(answer.intent.confidence);
		cells.push(el("td", el("bdi", answer.intent?.name)), el("td.number", confidence), el("td", reason && el("code", reason)));
	}
	if (hasTwo) cells.push(otherCell(row));
	return el("tr", ...cells);
}

function otherCell(row) {
	if (!row.differs) return el("td", "same");
	const { intent } = row.other || {};
	const text = row.other ? `${intent?.name || ""} ${percent(intent?.confidence)}` : row.otherError;
	return el("td", el("span.badge.differs", "≠"), ` ${text}`, row.other && marked(row, row.other, row.answer));
}

function render() {
	const shown = shownRows();
	if (first >= shown.length) first = 0;
	const last = Math.min(first + PAGE, shown.length);
	$("heads").replaceChildren(...Object.entries(COLUMNS).map(head), ...(hasTwo ? [el("th", { scope: "col" }, "Other version")] : []));
	$("rows").replaceChildren(...shown.slice(first, last).map(bodyRow));
	say("page-number", last ? `${first + 1}–${last} of ${number(shown.length)}` : "no rows");
	$("before").disabled = !first;
	$("next").disabled = last === shown.length;
}

function fillFilter() {
	const option = ([name, [title, fits]]) => {
		const count = rows.filter((row) => row.isDone && fits(row)).length;
		return el("option", { value: name }, `${title} (${number(count)})`);
	};
	$("filter").replaceChildren(...Object.entries(FILTERS).filter(([name]) => hasTwo || name !== "differs").map(option));
	$("filter").value = filter;
}

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

// Ask for some texts, again where the server is busy. If the call fails, each has its error.
async function askChunk(texts, choice) {
	const requests = texts.map((text) => ({ ...parseRequest(text, choice, thresholdsOf()), priority: "PRIORITY_BATCH" }));
	for (let attempt = 1; ; attempt += 1) {
		try {
			return await parseBatch(requests, stop.signal);
		} catch (error) {
			if (!(error instanceof CallError)) throw error;
			if (error.code !== "resource_exhausted" || attempt === ATTEMPTS) {
				if (/offline|unauthenticated|unavailable/.test(error.code)) page.fail(error);
				return texts.map(() => ({ error }));
			}
			await pause(error.retryAfter);
		}
	}
}

async function run(lines) {
	rows = lines.map((text, i) => ({ number: i + 1, text }));
	sorting = { key: "confidence", sign: 1 };
	[first, filter, stop] = [0, "all", new AbortController()];
	hasTwo = Boolean($("other").value);
	const choices = hasTwo ? [page.choice(), page.choice("other")] : [page.choice()];
	$("table").hidden = $("stop").hidden = $("progress").hidden = false;
	$("start").disabled = true;
	const started = performance.now();
	try {
		for (let done = 0; done < rows.length && !stop.signal.aborted; done += CHUNK) {
			const chunk = rows.slice(done, done + CHUNK);
			const texts = chunk.map((row) => row.text);
			const [items, others = []] = await Promise.all(choices.map((choice) => askChunk(texts, choice)));
			chunk.forEach((row, i) => fill(row, items[i], others[i]));
			progress(done + chunk.length, started);
			await pause(0); // the browser paints, and listens to its user
		}
	} catch (error) {
		if (error.name !== "AbortError") throw error;
	} finally {
		$("stop").hidden = $("progress").hidden = true;
		$("start").disabled = false;
		paint();
	}
}

function fill(row, item, other) {
	row.isDone = true;
	row.answer = item?.response;
	row.error = row.answer ? "" : item?.error?.message || "no answer";
	if (!other) return;
	row.other = other.response;
	row.otherError = other.error?.message || "";
	row.differs = row.answer && row.other ? differences(row.answer, row.other).any : row.answer !== row.other;
}

function progress(done, started) {
	$("progress").value = done / rows.length;
	const failed = rows.filter((row) => row.error).length;
	const seconds = ((performance.now() - started) / 1000).toFixed(1);
	say("count", `${number(done)} of ${number(rows.length)} in ${seconds} s${failed ? `, ${number(failed)} failed` : ""}`);
	if (performance.now() > painted + PAINT_MS) paint();
}

function paint() {
	painted = performance.now();
	fillFilter();
	render();
}

// Return the answers in the order of the lines, as rows that palm-train reads.
function exported() {
	const row = ({ text, answer, error }) => {
		if (!answer) return { text, error };
		const { intent, fallback, model, version } = answer;
		const slots = spansOf(answer.slots).map((span) => spanRow(text, span));
		return { text, intent: intent?.name, confidence: intent?.confidence, slots, fallback: fallback?.reason, model, version };
	};
	return rows.filter((one) => one.isDone).map((one) => `${JSON.stringify(row(one))}\n`).join("");
}

async function take(file) {
	if (!file) return;
	try {
		const texts = textsOfFile(file.name, await file.text());
		$("lines").value = texts.map((text) => text.replace(/\s*\n\s*/g, " ")).join("\n");
		say("count", `${number(texts.length)} lines of ${file.name}`);
	} catch (error) {
		if (!(error instanceof SyntaxError)) throw error;
		say("count", `${file.name} is not JSON: ${error.message}`);
	}
}

// `given`: functions of the page.
export function startBatch(given) {
	page = given;
	on("batch", "submit", (event) => {
		event.preventDefault();
		const lines = $("lines").value.split("\n").filter((line) => line.trim());
		if (lines.length) run(lines);
		else say("count", "Paste some lines first");
	});
	on("stop", "click", () => stop.abort());
	on("file", "change", () => take($("file").files[0]));
	on("batch", "dragover", (event) => event.preventDefault());
	on("batch", "drop", (event) => {
		event.preventDefault();
		take(event.dataTransfer.files[0]);
	});
	const turn = (to) => {
		first = to;
		render();
	};
	on("filter", "change", () => {
		filter = $("filter").value;
		turn(0);
	});
	on("before", "click", () => turn(Math.max(0, first - PAGE)));
	on("next", "click", () => turn(first + PAGE));
	on("export", "click", () => download("answers.jsonl", exported()));
}
