// One answer: marks, intents, fallback, further tasks, timings.

import { markedText, sameSpan, spansOf, spanTable } from "./marks.js";
import { el, percent } from "./text.js";

const SHOWN = 5;
const REASONS = {
	LOW_CONFIDENCE: "The best intent is below the threshold of the confidence.",
	AMBIGUOUS: "The first two intents are closer than the margin.",
	OUT_OF_SCOPE: "The text looks like nothing that the model has learnt.",
	UNKNOWN_LANGUAGE: "Most of the text is in letters that the model cannot read.",
};

// Return how two answers differ. `isOdd`: true for spans that only the first one has.
export function differences(answer, other) {
	if (!other) return { isOdd: () => false };
	const others = spansOf(other.slots);
	const isOdd = (span) => !others.some((candidate) => sameSpan(span, candidate));
	const intent = (answer.intent?.name || "") !== (other.intent?.name || "");
	const fallback = Boolean(answer.fallback?.triggered) !== Boolean(other.fallback?.triggered);
	const spans = spansOf(answer.slots);
	const any = intent || fallback || spans.some(isOdd) || spans.length !== others.length;
	return { intent, fallback, isOdd, any };
}

export function spoken(answer) {
	const slots = spansOf(answer.slots);
	const parts = [];
	if (answer.intent) parts.push(`Intent ${answer.intent.name}, ${percent(answer.intent.confidence)}`);
	if (answer.fallback?.triggered) parts.push(`fallback: ${REASONS[answer.fallback.reason] || ""}`);
	parts.push(slots.length === 1 ? "1 slot" : `${slots.length} slots`);
	return parts.join("; ");
}

// Return the card of an answer.
// `title`: name of the version. `other`: the answer of the other version. `oncorrect`: called by the button, if any.
export function answerCard(text, answer, { title, other, took, oncorrect }) {
	const spans = spansOf(answer.slots);
	const differs = differences(answer, other);
	const card = el("article.card.answer", { "aria-label": `Answer of ${title}` });
	card.append(
		el("header", el("h2", title), differs.any && el("span.badge.differs", "≠ differs")),
		markedText(text, spans, { isOdd: differs.isOdd }),
	);
	if (answer.truncated) card.append(el("p.warning", `The model read only the first ${answer.seen || 0} characters.`));
	const left = el("div", answer.intent && intents(answer, differs), answer.intent && fallback(answer.fallback || {}, differs));
	const right = el("div", part("Slots", slots(text, spans)), ...(answer.results || []).map((result) => taskPart(text, result)));
	const foot = timings(answer.timings, took);
	if (oncorrect) foot.append(el("button.correct", { onclick: oncorrect }, "Correct this answer"));
	card.append(el("div.columns", left, right), foot);
	return card;
}

function part(name, ...children) {
	return el("section.part", el("h3", name), ...children);
}

function intents(answer, differs) {
	return part("Intent", bars(answer.ranking || [answer.intent], answer.intents, differs.intent));
}

// Return a ranking as bars. `all`: labels that apply together, where a task has several.
export function bars(ranking, all = [], isOdd = false) {
	const items = ranking.slice(0, SHOWN).map(({ name = "", confidence = 0 }, place) =>
		el(
			"li",
			{ "--share": confidence, class: (place === 0 || all.some((label) => label.name === name)) && "first" },
			el("bdi.label", name),
			isOdd && place === 0 && el("span.badge.differs", "≠"),
			el("span.share", percent(confidence)),
			el("span.track", { "aria-hidden": "true" }),
		),
	);
	return el("ol.bars", ...items);
}

function fallback(answered, differs) {
	const score = answered.outOfScopeScore;
	const isTriggered = Boolean(answered.triggered);
	const text = isTriggered ? REASONS[answered.reason] || answered.reason : "The intent can be acted on.";
	return el(
		isTriggered ? "section.fallback.triggered" : "section.fallback",
		el("strong", isTriggered ? "⚠ Fallback" : "✓ No fallback", differs.fallback ? " ≠" : ""),
		isTriggered && el("code", answered.reason),
		el("p", text, score ? ` Out-of-scope score: ${Number(score.toPrecision(3))}.` : ""),
	);
}

function slots(text, spans) {
	return spans.length ? el("div.scroll", spanTable(text, spans)) : el("p.hint", "None in this text.");
}

export function taskPart(text, { task, classification, spans, match, answer }) {
	if (classification) {
		const all = classification.labels || [];
		const several = all.length > 1 && el("p", all.map((label) => label.name).join(", "));
		return part(task, several, bars(classification.ranking || [classification.label], all));
	}
	if (spans) {
		const found = spansOf(spans.spans);
		return part(task, markedText(text, found), slots(text, found));
	}
	if (match) return part(task, bars([{ name: match.label?.name || "score", confidence: match.score }]));
	return part(task, answer && answerSpan(answer));
}

function answerSpan(answer) {
	if (answer.noAnswer) return el("p.hint", `The passage holds no answer (${percent(answer.confidence)}).`);
	return bars([answer, ...(answer.alternatives || [])].map(({ text, confidence }) => ({ name: text, confidence })));
}

const STEPS = ["tokenize", "queue", "inference", "decode", "resolve"];

function timings(measured = {}, took = 0) {
	const strip = el("div.strip", { "aria-hidden": "true" });
	const list = el("dl");
	const add = (name, value, step) => list.append(el("div", { class: step }, el("dt", name), el("dd", value)));
	for (const step of STEPS) {
		const time = measured[`${step}Us`];
		if (time === undefined) continue;
		strip.append(el("i", { "--weight": time, class: step }));
		add(step, `${(time / 1000).toFixed(time < 10000 ? 2 : 1)} ms`, step);
	}
	add("batch", measured.batchSize || 1);
	if (took) add("round trip", `${took.toFixed(1)} ms`);
	return el("footer.timings", { "aria-label": "Time" }, strip, list);
}
