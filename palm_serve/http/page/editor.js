// Correction of an answer, which becomes a row of training data.

import { CallError, saveCorrection } from "./api.js";
import { markedText, selectedRange, spansOf } from "./marks.js";
import { codePoints, el, spanName, wholeCharacters } from "./text.js";

const KINDS = ["classify", "multi_label", "sequence_label"];
const SHOWN = 5;
const canSave = document.documentElement.dataset.feedback === "on";
const HINT = canSave
	? "Saved rows are added to the server's file, which palm-train reads as jsonl."
	: "Start the server with --feedback FILE.jsonl to save rows there. palm-train reads a copied row, too.";

// Corrects one answer. `box`: the box of the text, whose selection can be marked.
export class Editor {
	constructor(place, box) {
		this.place = place;
		this.box = box;
		this.text = null;
		this.status = el("span.saved", { role: "status" });
		document.addEventListener("selectionchange", () => this.#look());
		box.addEventListener("select", () => this.#look());
	}

	isOf(text) {
		return this.text === text;
	}

	close() {
		this.text = null;
		this.place.hidden = true;
	}

	// Begin with what the model answered. Tasks without a role begin as not labelled: nobody has looked at them.
	open(text, answer, model) {
		Object.assign(this, { text, answer, range: null, values: {} });
		this.tasks = (model?.tasks || []).filter((task) => KINDS.includes(task.kind));
		for (const { name, role, kind } of this.tasks) {
			if (role === "slots") this.values[name] = spansOf(answer.slots);
			else if (role === "intent") this.values[name] = kind === "classify" ? answer.intent?.name : (answer.intents || []).map((label) => label.name);
		}
		this.status.textContent = "";
		this.place.hidden = false;
		this.#render();
		this.place.querySelector("h2").focus();
	}

	#render() {
		const fields = this.tasks.map((task) => {
			const field = { classify: this.#class, multi_label: this.#classes, sequence_label: this.#spans }[task.kind];
			return el("fieldset", el("legend", task.name), ...field.call(this, task));
		});
		const button = (text, onclick, name) => el(`button.${name}`, { onclick }, text);
		this.place.replaceChildren(
			el("h2", { tabindex: -1 }, "Correct the answer"),
			el("p.hint", this.tasks.length ? HINT : "The model's tasks are not known: the token needs the scope 'read'."),
			...fields,
			el(
				"div.actions",
				canSave && button("Save as training row", () => this.#save(), "primary"),
				button("Copy the row", () => this.#copy(), "copy-row"),
				button("Close", () => this.#cancel(), "cancel"),
				this.status,
			),
		);
	}

	#class({ name, role, labels = [] }) {
		const result = (this.answer.results || []).find((one) => one.task === name)?.classification;
		const ranking = (role === "intent" ? this.answer.ranking : result?.ranking) || [];
		const value = this.values[name];
		const shown = ranking.slice(0, SHOWN).map((label) => label.name);
		if (value && !shown.includes(value)) shown.push(value);
		const choose = (label) => {
			this.values[name] = label;
			this.#render();
			this.place.querySelector(`[name="${CSS.escape(name)}"]:checked`).focus();
		};
		const radio = (label) => {
			const input = el("input", { type: "radio", name, checked: value === label, onchange: () => choose(label) });
			return el("label.radio", input, label === undefined ? el("i", "not labelled") : el("bdi", label));
		};
		const others = labels.filter((label) => !shown.includes(label)).map((label) => el("option", label));
		const onchange = ({ target }) => choose(target.value);
		const more = others.length > 0 && el("label", "Another ", el("select", { onchange }, el("option", { value: "" }, "choose …"), ...others));
		return [el("div.radios", ...[...shown, undefined].map(radio), more)];
	}

	#classes({ name, labels = [] }) {
		const chosen = new Set(this.values[name]);
		const box = (label) => {
			const onchange = ({ target }) => {
				chosen[target.checked ? "add" : "delete"](label);
				this.values[name] = [...chosen];
			};
			return el("label.radio", el("input", { type: "checkbox", checked: chosen.has(label), onchange }), el("bdi", label));
		};
		return [el("div.radios", ...labels.map(box))];
	}

	#spans({ name, labels = [], spanTypes = [] }) {
		const spans = this.values[name] || [];
		const kinds = spanTypes.length ? spanTypes : labels.map((label) => ({ name: label }));
		const change = (changed) => {
			this.values[name] = changed.sort((one, other) => one.start - other.start);
			this.#render();
		};
		const onremove = (span) => {
			change(spans.filter((one) => one !== span));
			(this.place.querySelector(".remove") || this.box).focus();
		};
		const options = kinds.map((kind, i) => el("option", { value: i, selected: this.kind === i }, spanName(kind)));
		const select = el("select", { onchange: () => (this.kind = Number(select.value)) }, ...options);
		const add = () => {
			const [start, end] = this.range;
			const rest = spans.filter((span) => span.end <= start || span.start >= end);
			this.range = null;
			change([...rest, ...spansOf([{ ...kinds[select.value], start, end }])]);
			this.box.focus();
		};
		const button = el("button.add", { disabled: !this.range, onclick: add }, "Add the mark");
		return [
			markedText(this.text, spans, { onremove }),
			el("div.actions", el("bdi.selected", this.#selected()), el("label", "is a ", select), button),
		];
	}

	#selected() {
		return this.range ? `“${this.text.slice(...this.range)}”` : "Select a part of the text, here or in the box above";
	}

	// Take the selection of the box or of a marked text.
	#look() {
		if (this.text === null) return;
		const { box } = this;
		let range = null;
		if (document.activeElement === box) {
			if (box.value === this.text) range = [box.selectionStart, box.selectionEnd];
		} else {
			for (const marked of this.place.querySelectorAll(".marked")) range ||= selectedRange(marked);
		}
		if (!range) return;
		range = wholeCharacters(this.text, ...range);
		if (range[0] >= range[1]) return;
		this.range = range;
		for (const place of this.place.querySelectorAll(".selected")) place.textContent = this.#selected();
		for (const button of this.place.querySelectorAll(".add")) button.disabled = false;
	}

	#fields() {
		const fields = {};
		for (const { name, kind } of this.tasks) {
			const value = this.values[name];
			if (value !== undefined) fields[name] = kind === "sequence_label" ? value.map((span) => spanRow(this.text, span)) : value;
		}
		return fields;
	}

	async #copy() {
		const { model, version } = this.answer;
		const row = { text: this.text, ...this.#fields(), source: "playground", model, version };
		try {
			await navigator.clipboard.writeText(`${JSON.stringify(row)}\n`);
			this.status.textContent = "Copied";
		} catch {
			this.status.textContent = "The browser does not allow to copy here";
		}
	}

	async #save() {
		const { text, answer } = this;
		const { model, version } = answer;
		try {
			await saveCorrection({ text, fields: this.#fields(), model, version, answer });
			this.status.textContent = "✓ Saved";
		} catch (error) {
			if (!(error instanceof CallError)) throw error;
			this.status.textContent = error.message;
		}
	}

	#cancel() {
		this.close();
		this.box.focus();
	}
}

// Return a span as rows of training data have it: in code points, without empty keys.
export function spanRow(text, { name, role, group, start, end }) {
	const row = { start: codePoints(text, start), end: codePoints(text, end), label: name };
	if (role) row.role = role;
	if (group) row.group = group;
	return row;
}
