// Texts, offsets and elements. No markup is ever made from strings.

// Create an element. `tag` may name classes: "p.hint". Attributes that are false or null are left out.
export function el(tag, ...children) {
	const [name, ...classes] = tag.split(".");
	const made = document.createElement(name);
	if (name === "button") made.type = name; // no button submits
	const attributes = Object.getPrototypeOf(children[0] ?? "") === Object.prototype ? children.shift() : {};
	for (const [key, value] of Object.entries(attributes)) {
		if (value === false || value == null) continue;
		if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
		else if (key.startsWith("--")) made.style.setProperty(key, value);
		else if (key === "class") classes.push(value);
		else made.setAttribute(key, value === true ? "" : value);
	}
	if (classes.length) made.className = classes.join(" ");
	made.append(...children.filter((child) => child != null && child !== false));
	return made;
}

export const $ = (id) => document.getElementById(id);
export const say = (id, text) => ($(id).textContent = text);
export const on = (id, event, act) => $(id).addEventListener(event, act);
export const number = (value) => value.toLocaleString("en");

// Return the hue of a label, 0 to 360: the same for the same name, in every version.
export function hue(name) {
	let hash = 2166136261;
	for (const unit of new TextEncoder().encode(name)) hash = Math.imul(hash ^ unit, 16777619) >>> 0;
	return Math.round((hash % 1024) * (360 / 1024));
}

// Show a share, with one digit more near 0 and 1.
export function percent(value = 0) {
	return `${(value * 100).toFixed(value < 0.1 || value > 0.99 ? 1 : 0)} %`;
}

// Convert an offset in UTF-16 units to code points, the unit of training data.
export const codePoints = (text, offset) => [...text.slice(0, offset)].length;

// Return a range widened to whole characters as people see them, without blanks at its ends.
export function wholeCharacters(text, start, end) {
	let from = start;
	let to = end;
	for (const { segment, index } of new Intl.Segmenter().segment(text)) {
		const after = index + segment.length;
		if (index < start && start < after) from = index;
		if (index < end && end < after) to = after;
	}
	while (from < to && /\s/.test(text[from])) from += 1;
	while (to > from && /\s/.test(text[to - 1])) to -= 1;
	return [from, to];
}

export function spanName({ name, role, group }) {
	const details = [role && `role ${role}`, group && `group ${group}`].filter(Boolean).join(", ");
	return details ? `${name} (${details})` : name;
}

// Read CSV or TSV (RFC 4180).
export function readTable(text, separator) {
	const cell = new RegExp(`(?:"((?:[^"]|"")*)"|([^${separator}\r\n]*))(${separator}|\r?\n|\r|$)`, "g");
	const rows = [[]];
	for (const [, quoted, plain, end] of text.matchAll(cell)) {
		rows.at(-1).push(quoted === undefined ? plain : quoted.replaceAll('""', '"'));
		if (end !== separator) rows.push([]);
	}
	return rows;
}

const TEXT_COLUMNS = ["text", "utterance", "query", "sentence"];

// Return the texts of a file: of JSONL the key `text`, of a table the column of the text, else its lines.
export function textsOfFile(name, content) {
	const text = content.replace(/^\ufeff/, "");
	const kind = name.toLowerCase().split(".").pop();
	let texts = text.split(/\r?\n/);
	if (kind === "jsonl") {
		texts = texts.filter((line) => line.trim()).map((line) => String(JSON.parse(line)?.text ?? ""));
	} else if (kind === "csv" || kind === "tsv") {
		const rows = readTable(text, kind === "tsv" ? "\t" : ",");
		const column = rows[0].findIndex((head) => TEXT_COLUMNS.includes(head.trim().toLowerCase()));
		texts = rows.slice(column < 0 ? 0 : 1).map((row) => row[Math.max(column, 0)] ?? "");
	}
	return texts.filter((line) => line.trim());
}

export function download(name, content) {
	const url = URL.createObjectURL(new Blob([content], { type: "application/jsonl" }));
	el("a", { href: url, download: name }).click();
	setTimeout(() => URL.revokeObjectURL(url), 10000);
}
