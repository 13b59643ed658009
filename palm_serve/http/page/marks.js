// A text with its marked spans.

import { el, hue, percent, spanName } from "./text.js";

// Return spans with every value set: JSON leaves out zeros and empty texts.
export function spansOf(spans = []) {
	return spans.map((span) => ({ name: "", role: "", group: "", start: 0, end: 0, confidence: 0, ...span }));
}

export function sameSpan(one, other) {
	return ["name", "role", "group", "start", "end"].every((key) => one[key] === other[key]);
}

// Return the text with its marks. Each has its name and confidence as text below it, so that colour is never alone.
// `onremove`: called with a span whose mark shall be removed. `isOdd`: true for spans that another version lacks.
export function markedText(text, spans, { onremove, isOdd = () => false, isSmall } = {}) {
	const line = el(isSmall ? "p.marked.small" : "p.marked", { dir: "auto" });
	let position = 0;
	const plain = (end) => {
		if (end > position) line.append(el("span", { "data-start": position }, text.slice(position, end)));
	};
	for (const span of spans) {
		plain(span.start);
		line.append(mark(text, span, { onremove, isOdd: isOdd(span), isSmall }));
		position = span.end;
	}
	plain(text.length);
	return line;
}

function mark(text, span, { onremove, isOdd, isSmall }) {
	const name = spanName(span);
	const value = text.slice(span.start, span.end);
	const confidence = span.confidence > 0 && percent(span.confidence);
	const label = [name, value, confidence, isOdd && "only in this version"].filter(Boolean).join(", ");
	const attributes = { "--hue": hue(span.name), class: isOdd && "odd", tabindex: isSmall ? null : 0, role: "group", "aria-label": label };
	const remove = onremove && el("button.remove", { "aria-label": `Remove ${name}: ${value}`, onclick: () => onremove(span) }, "×");
	const below = el("span.name", el("bdi", name), confidence && !isSmall && el("span.confidence", ` ${confidence}`), isOdd && " ≠", remove);
	return el("mark", attributes, el("span.value", { "data-start": span.start }, value), below);
}

// Return the table of spans: what marks have no room for.
export function spanTable(text, spans) {
	const has = (key) => spans.some((span) => span[key]);
	const columns = [
		["Slot", (span) => el("td", el("i.dot", { "--hue": hue(span.name) }), el("bdi", span.name))],
		["Text", (span) => el("td", { dir: "auto" }, text.slice(span.start, span.end))],
		has("role") && ["Role", (span) => el("td", span.role)],
		has("group") && ["Group", (span) => el("td", span.group)],
		has("resolved") && ["Value", (span) => el("td", ...resolved(span.resolved))],
		["Confidence", (span) => el("td.number", percent(span.confidence))],
		["Range", (span) => el("td.number.dim", `${span.start}–${span.end}`)],
	].filter(Boolean);
	const head = el("tr", ...columns.map(([name]) => el("th", { scope: "col" }, name)));
	const rows = spans.map((span) => el("tr", ...columns.map(([, cell]) => cell(span))));
	return el("table", el("thead", head), el("tbody", ...rows));
}

// Show a resolved value, with its JSON as title.
function resolved(value) {
	if (!value) return [];
	const { canonical, kind, json } = value;
	return [el("bdi", { title: json }, canonical || json), " ", kind && el("span.badge", kind)];
}

// Return the range of the text that is selected within marked text, or null.
export function selectedRange(container) {
	const selection = document.getSelection();
	if (!selection.rangeCount || selection.isCollapsed) return null;
	const offsets = [];
	for (const [node, offset] of [
		[selection.anchorNode, selection.anchorOffset],
		[selection.focusNode, selection.focusOffset],
	]) {
		const part = node.nodeType === Node.TEXT_NODE ? node.parentElement.closest("[data-start]") : null;
		if (!part || !container.contains(part)) return null;
		offsets.push(Number(part.dataset.start) + offset);
	}
	return [Math.min(...offsets), Math.max(...offsets)];
}
