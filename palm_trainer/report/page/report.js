// The list of answers of report.html: its filters are in the hash, so that a link leads to rows.
(() => {
  const data = document.getElementById("answer-rows");
  if (!data) return;
  const rows = JSON.parse(data.textContent);
  const form = document.getElementById("answer-filters");
  const list = document.getElementById("answer-list");
  const more = document.getElementById("more-answers");
  const state = document.getElementById("answer-state");
  const PAGE_SIZE = 50;
  const FILTERS = ["task", "outcome", "gold", "answered", "words", "from", "to", "q"];
  const LENGTHS = { "1-3": [0, 3], "4-11": [4, 11], "12-": [12, Infinity] };
  const MARKS = { "wrong, answered": "wrong", "wrong, refused": "missed", "right, refused": "missed", "right, answered": "right" };
  let filters = {};
  let visible = [];
  let shown = 0;

  function create(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // ---- filters -----------------------------------------------------------------------------------------------------
  function matches(row) {
    if (filters.row && row.row !== filters.row) return false;
    if (filters.task && row.task !== filters.task) return false;
    if (filters.outcome && row.outcome !== filters.outcome) return false;
    if (filters.gold && !row.gold.includes(filters.gold)) return false;
    if (filters.answered && !row.answered.includes(filters.answered)) return false;
    if (filters.words) {
      const [least, most] = LENGTHS[filters.words] ?? [0, Infinity];
      if (row.words < least || row.words > most) return false;
    }
    // An answer without a confidence has no part that could have one.
    if (filters.from && !(100 * row.confidence >= Number(filters.from))) return false;
    if (filters.to && !(100 * row.confidence <= Number(filters.to))) return false;
    if (filters.q && !row.words_of.includes(filters.q.toLowerCase())) return false;
    return true;
  }

  function fill(name, values, all) {
    const counts = new Map();
    for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
    const select = form.elements[name];
    select.append(new Option(all, ""));
    const sorted = [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
    for (const [value, count] of sorted) select.append(new Option(`${value} (${count})`, value));
  }

  function setControl(name, value) {
    const control = form.elements[name];
    if (value && control.tagName === "SELECT" && ![...control.options].some((option) => option.value === value)) {
      control.append(new Option(`${value} (0)`, value)); // a class whose rows are not in the list
    }
    control.value = value;
  }

  function readHash() {
    const hash = location.hash.slice(1);
    if (hash && !hash.includes("=")) return false; // an anchor of the page
    const given = new URLSearchParams(hash);
    filters = { row: given.get("row") ?? "" };
    for (const name of FILTERS) {
      filters[name] = given.get(name) ?? "";
      setControl(name, filters[name]);
    }
    return true;
  }

  function writeHash() {
    const given = new URLSearchParams();
    for (const name of FILTERS) if (form.elements[name].value) given.set(name, form.elements[name].value);
    const hash = given.toString();
    if (hash) location.hash = hash;
    else {
      history.replaceState(null, "", location.pathname + location.search);
      readHash();
      render();
    }
  }

  // ---- one answer --------------------------------------------------------------------------------------------------
  const percent = (confidence) => `${(100 * confidence).toFixed(1)} %`;

  function showSegment([text, label, status, confidence]) {
    if (!status) return text;
    const mark = create("mark", status, text);
    const type = create("span", "type");
    type.dir = "ltr";
    type.append(create("bdi", "", label));
    if (status === "wrong" && confidence !== null) type.append(create("span", "confidence", ` ${percent(confidence)}`));
    mark.append(type);
    return mark;
  }

  function showLabel([text, , status, confidence]) {
    const tag = create("span", `tag ${status}`);
    tag.append(create("bdi", "", text));
    if (confidence !== null) tag.append(create("span", "confidence", ` ${percent(confidence)}`));
    return tag;
  }

  function showSide(heading, [segments, labels]) {
    const side = create("div", "side");
    side.append(create("h4", "", heading));
    if (segments.length) side.append(showText(segments.map(showSegment)));
    if (labels.length) {
      const line = create("p", "labels");
      for (const label of labels) line.append(showLabel(label), " ");
      side.append(line);
    }
    if (!segments.length && !labels.length) side.append(create("p", "labels none", "none"));
    return side;
  }

  function showText(parts) {
    const line = create("p", "text");
    line.dir = "auto";
    line.append(...parts);
    return line;
  }

  function showRow(row) {
    const item = create("li");
    const where = create("p", "where");
    const place = create("span");
    const link = create("a", "", row.place);
    link.href = `#${new URLSearchParams({ task: row.task, row: row.row })}`;
    link.title = row.row;
    place.append(link);
    const facts = [row.task, row.outcome + (row.reason ? ` (${row.reason})` : "")];
    if (row.confidence !== undefined) facts.push(`confidence ${percent(row.confidence)}`);
    const outcome = create("span", `outcome ${MARKS[row.outcome]}`, facts.join(" · "));
    where.append(place, outcome);
    item.append(where);
    for (const text of row.texts) item.append(showText([text]));
    const sides = create("div", "sides");
    const headings = row.sides.length > 1 ? ["gold", "answered"] : ["answered"];
    row.sides.forEach((side, number) => sides.append(showSide(headings[number], side)));
    item.append(sides);
    return item;
  }

  // ---- the list ----------------------------------------------------------------------------------------------------
  function showMore() {
    const end = Math.min(visible.length, shown + PAGE_SIZE);
    list.append(...visible.slice(shown, end).map(showRow));
    shown = end;
    more.hidden = shown >= visible.length;
    more.textContent = `Show more (${visible.length - shown} left)`;
  }

  function render() {
    visible = rows.filter(matches);
    shown = 0;
    list.replaceChildren();
    showMore();
    state.textContent = `${visible.length} of ${rows.length}${filters.row ? `: ${filters.row}` : ""}`;
    if (!visible.length) list.append(create("li", "none", "No answer of this list fits the filters."));
  }

  for (const row of rows) {
    const segments = row.sides.flatMap(([texts, labels]) => [...texts, ...labels]);
    row.words_of = [row.row, ...row.texts, ...segments.flatMap(([text, label]) => [text, label ?? ""])].join(" ").toLowerCase();
  }
  fill("task", rows.map((row) => row.task), "all");
  fill("outcome", rows.map((row) => row.outcome), "all");
  fill("gold", rows.flatMap((row) => row.gold), "all");
  fill("answered", rows.flatMap((row) => row.answered), "all");
  for (const [text, value] of [["all", ""], ["3 or fewer", "1-3"], ["4 to 11", "4-11"], ["12 or more", "12-"]]) {
    form.elements.words.append(new Option(text, value));
  }
  let typing = 0;
  form.addEventListener("input", (event) => {
    clearTimeout(typing);
    typing = setTimeout(writeHash, event.target.tagName === "SELECT" ? 0 : 250);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(writeHash));
  more.addEventListener("click", showMore);
  addEventListener("hashchange", () => {
    if (!readHash()) return;
    render();
    if (!form.contains(document.activeElement)) document.getElementById("all-answers").scrollIntoView();
  });
  if (readHash() && location.hash) document.getElementById("all-answers").scrollIntoView();
  render();
})();
