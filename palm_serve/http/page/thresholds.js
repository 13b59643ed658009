// Thresholds of the fallback, for the requests of this page.

import { $, el, on, say } from "./text.js";

const SLIDERS = {
	intentConfidence: "Confidence of the intent, at least",
	ambiguityMargin: "Margin between the first two intents, at least",
	outOfScope: "Out-of-scope score, at most",
};
const NAMES = Object.keys(SLIDERS);
const OWN = "the model's own";
let values = {};

export const thresholdsOf = () => ({ ...values });

function showValues() {
	for (const name of NAMES) say(`value-${name}`, name in values ? Number(values[name].toPrecision(3)) : OWN);
	$("changed").hidden = !Object.keys(values).length;
}

export function startThresholds(onchange) {
	for (const name of NAMES) {
		const oninput = ({ target }) => {
			values[name] = Number(target.value);
			showValues();
			onchange();
		};
		const input = el("input", { id: name, type: "range", min: 0, max: 1, step: 0.01, oninput });
		const rail = el("span.rail", el("i", { id: `mark-${name}` }), input);
		$("sliders").append(el("label.slider", el("span", SLIDERS[name]), el("output", { id: `value-${name}` }, OWN), rail));
	}
	on("reset", "click", () => {
		values = {};
		showValues();
		onchange();
	});
}

// Mark on each line the value of an answer. An out-of-scope score has no bounds, so its line grows with it.
export function markValues({ intent, ranking = [], fallback }) {
	const score = fallback?.outOfScopeScore || 0;
	const [first = 0, second = 0] = ranking.map((label) => label.confidence);
	const answered = { intentConfidence: intent?.confidence || 0, ambiguityMargin: first - second, outOfScope: score };
	const line = $("outOfScope");
	line.min = Math.min(line.min, 2 * score);
	line.max = Math.max(line.max, 2 * score);
	line.step = (line.max - line.min) / 100;
	for (const name of NAMES) {
		const { min, max } = $(name);
		$(`mark-${name}`).style.setProperty("--share", (answered[name] - min) / (max - min));
		if (!(name in values)) $(name).value = answered[name];
	}
}
