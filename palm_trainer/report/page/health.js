// The findings of palm-train health: filters in the hash, decisions by key, and review.jsonl to save.
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const element = (id) => document.getElementById(id);
  const PAGE_SIZE = 50;
  const FILTERS = ["signal", "field", "split", "label", "tag", "decision", "q"];
  const OVERLAP = "class overlap";
  const entries = [
    ...page.merges.map((merge) => ({ ...merge, isMerge: true, near: [], tags: [], why: [[OVERLAP, merge.why]] })),
    ...page.items,
  ];
  for (const entry of entries) entry.suggestion = entry.line.to;
  let filters = { decision: "open" };
  let visible = [];
  let shown = 0;
  let current = -1;
  let unsaved = false;

  // ---- words -------------------------------------------------------------------------------------------------------
  const spanName = (span) => [span.label, span.role, span.group].filter(Boolean).join("/");
  const isSpans = (entry) => page.labels[entry.line.field]?.kind === "spans";
  function names(value) {
    if (value === null || value === undefined) return [];
    if (typeof value === "string") return [value];
    return value.map((item) => (typeof item === "string" ? item : spanName(item)));
  }
  const signals = (entry) => entry.why.map(([signal]) => signal);
  const split = (entry) => (entry.isMerge ? "" : entry.split);
  const labels = (entry) =>
    entry.isMerge ? [entry.line.merge, entry.line.to] : [...names(entry.line.label), ...names(entry.suggestion)];
  const decision = (entry) => entry.line.decision ?? "open";

  function create(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // ---- filters -----------------------------------------------------------------------------------------------------
  function matches(entry) {
    if (filters.signal && !signals(entry).includes(filters.signal)) return false;
    if (filters.field && (entry.line.field || "(row)") !== filters.field) return false;
    if (filters.split && split(entry) !== filters.split) return false;
    if (filters.label && !labels(entry).includes(filters.label)) return false;
    if (filters.tag && !entry.tags.includes(filters.tag)) return false;
    if (filters.decision === "decided" ? decision(entry) === "open" : filters.decision && decision(entry) !== filters.decision) return false;
    if (filters.q) {
      const words = `${entry.line.text ?? ""} ${entry.pair ?? ""} ${entry.place ?? ""} ${labels(entry).join(" ")}`;
      if (!words.toLowerCase().includes(filters.q.toLowerCase())) return false;
    }
    return true;
  }

  function fill(id, values, all) {
    const counts = new Map();
    for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
    const select = element(`filter-${id}`);
    select.replaceChildren(new Option(all, ""));
    const sorted = [...counts].filter(([value]) => value).sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
    for (const [value, count] of sorted) select.append(new Option(`${value} (${count})`, value));
  }

  function readHash() {
    const hash = location.hash.slice(1);
    if (hash && !hash.includes("=")) return false; // an anchor of the page
    const given = new URLSearchParams(hash);
    filters = {};
    for (const name of FILTERS) filters[name] = given.get(name) ?? (name === "decision" ? "open" : "");
    if (filters.decision === "all") filters.decision = "";
    for (const name of FILTERS) element(`filter-${name}`).value = name === "decision" ? filters.decision || "all" : filters[name];
    return true;
  }

  function writeHash() {
    const given = new URLSearchParams();
    for (const name of FILTERS) {
      const value = element(`filter-${name}`).value;
      if (name === "decision" ? value !== "open" : value) given.set(name, value);
    }
    const hash = given.toString() || "decision=open";
    if (hash === location.hash.slice(1)) render();
    else location.hash = hash;
  }

  // ---- one finding -------------------------------------------------------------------------------------------------
  function marked(text, spans, toneOf) {
    const line = create("p", "text");
    line.dir = "auto";
    const points = [...text]; // offsets count code points
    let at = 0;
    for (const span of [...spans].sort((a, b) => a.start - b.start)) {
      if (span.start < at) continue;
      line.append(points.slice(at, span.start).join(""));
      const mark = create("mark", toneOf(span), points.slice(span.start, span.end).join(""));
      if (span.label) {
        const type = create("span", "type");
        type.dir = "ltr";
        type.append(create("bdi", "", spanName(span)));
        mark.append(type);
      }
      line.append(mark);
      at = span.end;
    }
    line.append(points.slice(at).join(""));
    return line;
  }

  const spansOf = (value) => (Array.isArray(value) ? value.filter((item) => typeof item === "object") : []);
  const touches = (line) => (span) => line.start === undefined || (span.start < line.end && line.start < span.end);

  function showText(entry) {
    if (!isSpans(entry)) {
      const texts = [marked(entry.line.text, [], () => "")];
      if (entry.pair !== undefined) texts.push(marked(entry.pair, [], () => ""));
      return texts;
    }
    const isTouched = touches(entry.line);
    const spans = spansOf(entry.value);
    if (entry.line.start !== undefined && !spans.some(isTouched)) spans.push({ start: entry.line.start, end: entry.line.end, label: "" });
    return [marked(entry.line.text, spans, (span) => (isTouched(span) ? "here" : "plain"))];
  }

  function tag(text, tone) {
    const shape = create("span", `tag ${tone}`);
    shape.append(create("bdi", "", text));
    return shape;
  }

  function describe(entry, value, tone) {
    const part = create("span");
    if (value === null || value === undefined) part.append(create("span", "none", "no suggestion"));
    else if (names(value).length === 0) part.append(tag(isSpans(entry) ? "no span" : "no class", tone));
    else if (isSpans(entry)) {
      const points = [...entry.line.text];
      for (const span of value) part.append(tag(`${points.slice(span.start, span.end).join("")} · ${spanName(span)}`, tone), " ");
    } else for (const name of names(value)) part.append(tag(name, tone), " ");
    return part;
  }

  function showChange(entry) {
    const line = create("p", "change");
    if (entry.isMerge) line.append(tag(entry.line.merge, "wrong"), create("span", "arrow", "into →"), tag(entry.line.to, "right"));
    else if (entry.line.field) {
      line.append(create("span", "arrow", `${entry.line.field}:`), describe(entry, entry.line.label, "wrong"));
      line.append(create("span", "arrow", "→"), describe(entry, entry.line.to, "right"));
    }
    return line;
  }

  function showNear(entry) {
    const box = create("div", "near");
    for (const number of entry.near) {
      const row = page.rows[number];
      const line = isSpans(entry) ? marked(row.text, spansOf(row.value), () => "plain") : marked(row.text, [], () => "");
      if (row.pair !== undefined) line.append(" ⸱ ", row.pair);
      if (!isSpans(entry)) for (const name of names(row.value)) line.append(" ", tag(name, name === names(entry.suggestion)[0] ? "right" : "missed"));
      const place = create("span", "place", `${shorten(row.place)} `);
      place.title = row.place;
      line.prepend(place);
      box.append(line);
    }
    return box;
  }

  const shorten = (place) => place.split("/").slice(-2).join("/");
  const VERDICTS = { relabel: "relabelled", drop: "row removed", ignore: "kept as it is", merge: "merged" };

  function showEntry(entry, position) {
    const item = create("li", entry.line.decision ? "decided" : "");
    item.tabIndex = -1;
    item.dataset.position = position;
    const where = create("p", "where");
    const place = create("span", "", entry.isMerge ? `${entry.line.data} · ${entry.line.field}` : shorten(entry.place));
    place.title = entry.place ?? "";
    where.append(place, create("span", "", [split(entry), ...entry.tags].filter(Boolean).join(" · ")));
    item.append(where);
    if (!entry.isMerge) item.append(...showText(entry));
    item.append(showChange(entry));
    for (const [signal, text] of entry.why) {
      const why = create("p", "why");
      why.append(create("b", "", signal), ` ${text}`);
      item.append(why);
    }
    if (entry.near.length) item.append(showNear(entry));
    item.append(showActions(entry, position));
    item.addEventListener("focusin", () => setCurrent(position, false));
    return item;
  }

  function showActions(entry, position) {
    const box = create("div", "actions");
    const add = (key, text, isPossible, act) => {
      const button = create("button", "", `${text} `);
      button.type = "button";
      button.disabled = !isPossible;
      button.append(create("kbd", "", key));
      button.addEventListener("click", (event) => {
        event.stopPropagation();
        setCurrent(position, false);
        act();
      });
      box.append(button);
    };
    const hasSuggestion = entry.suggestion !== null && entry.suggestion !== undefined;
    if (entry.line.decision) {
      box.append(create("span", "verdict", VERDICTS[entry.line.decision] ?? entry.line.decision));
      add("u", "Undo", true, undo);
      return box;
    }
    add("a", "Accept", hasSuggestion, accept);
    add("r", "Reject", true, reject);
    if (!entry.isMerge) add("d", "Remove row", true, drop);
    if (!entry.isMerge && entry.line.field) add("l", "Other label", true, choose);
    add("s", "Skip", true, () => move(1));
    return box;
  }

  // ---- decisions ---------------------------------------------------------------------------------------------------
  function decide(value, to) {
    const entry = visible[current];
    if (!entry) return;
    entry.line.decision = value;
    entry.line.to = to === undefined ? entry.suggestion : to;
    unsaved = true;
    redraw(current);
    showState();
    if (value) move(1);
  }

  function accept() {
    const entry = visible[current];
    if (entry && entry.suggestion !== null && entry.suggestion !== undefined) decide(entry.isMerge ? "merge" : "relabel");
  }
  const reject = () => decide("ignore");
  const undo = () => decide(null);
  function drop() {
    if (visible[current] && !visible[current].isMerge) decide("drop");
  }

  function choose() {
    const entry = visible[current];
    const item = itemAt(current);
    if (!entry || !item || entry.isMerge || !entry.line.field) return;
    if (item.querySelector(".choose")) return;
    const box = create("div", "choose");
    const select = create("select");
    const kind = page.labels[entry.line.field].kind;
    select.setAttribute("aria-label", "label");
    if (kind === "classes") {
      select.multiple = true;
      select.size = 8;
    }
    if (kind === "spans") select.append(new Option("(no span)", ""));
    for (const name of page.labels[entry.line.field].names) {
      select.append(new Option(name, name, false, names(entry.line.label).includes(name)));
    }
    const ok = create("button", "main", "Relabel");
    ok.type = "button";
    ok.addEventListener("click", () => {
      const chosen = [...select.selectedOptions].map((option) => option.value);
      decide("relabel", chosenValue(entry, kind, chosen));
    });
    select.addEventListener("keydown", (event) => {
      if (event.key === "Enter") ok.click();
      if (event.key === "Escape") redraw(current, true);
    });
    box.append(select, ok);
    item.append(box);
    select.focus();
  }

  function chosenValue(entry, kind, chosen) {
    if (kind === "classes") return chosen;
    if (kind === "class") return chosen[0];
    if (!chosen[0]) return [];
    const first = spansOf(entry.line.label)[0];
    const start = entry.line.start ?? first?.start ?? 0;
    const end = entry.line.end ?? first?.end ?? [...entry.line.text].length;
    return [{ start, end, label: chosen[0] }];
  }

  // ---- the list ----------------------------------------------------------------------------------------------------
  const itemAt = (position) => element("list").querySelector(`:scope > li[data-position="${position}"]`);

  function redraw(position, focus = false) {
    const old = itemAt(position);
    if (!old) return;
    const item = showEntry(visible[position], position);
    item.classList.toggle("current", position === current);
    old.replaceWith(item);
    if (focus || document.activeElement === document.body) item.focus({ preventScroll: true });
  }

  function setCurrent(position, focus = true) {
    itemAt(current)?.classList.remove("current");
    current = position;
    const item = itemAt(position);
    if (!item) return;
    item.classList.add("current");
    if (focus) {
      item.focus({ preventScroll: true });
      item.scrollIntoView({ block: "nearest" });
    }
  }

  function move(step) {
    const next = Math.min(visible.length - 1, Math.max(0, current + step));
    if (next >= shown) showMore();
    if (next >= 0) setCurrent(next);
  }

  function showMore() {
    const end = Math.min(visible.length, shown + PAGE_SIZE);
    const added = [];
    for (let position = shown; position < end; position++) added.push(showEntry(visible[position], position));
    element("list").append(...added);
    shown = end;
    element("more").hidden = shown >= visible.length;
    element("more").textContent = `Show more (${visible.length - shown} left)`;
  }

  function showState() {
    const decided = entries.filter((entry) => entry.line.decision).length;
    element("state").textContent = `${visible.length} shown, ${decided} of ${entries.length} decided${unsaved ? ", not saved" : ""}`;
    element("save").disabled = entries.length === 0 && page.kept.length === 0;
  }

  function render() {
    visible = entries.filter(matches);
    shown = 0;
    current = -1;
    element("list").replaceChildren();
    showMore();
    showState();
    if (visible.length === 0) element("list").append(create("li", "none", entries.length ? "No finding fits the filters." : "Nothing was found."));
  }

  // ---- the file ----------------------------------------------------------------------------------------------------
  const ROW_KEYS = ["data", "split", "file", "line", "digest", "field", "start", "end"];
  const MERGE_KEYS = ["data", "field", "merge"];
  const keyOf = (line) => JSON.stringify(("merge" in line ? MERGE_KEYS : ROW_KEYS).map((key) => line[key] ?? null));

  function reviewText() {
    const lines = page.order.map((number) => (number < entries.length ? entries[number].line : page.kept[number - entries.length]));
    return lines.map((line) => `${JSON.stringify(line)}\n`).join("");
  }

  function save() {
    const link = create("a");
    link.href = URL.createObjectURL(new Blob([reviewText()], { type: "application/x-ndjson" }));
    link.download = "review.jsonl";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    unsaved = false;
    showState();
  }

  async function load(file) {
    const byKey = new Map(entries.map((entry) => [keyOf(entry.line), entry]));
    let taken = 0;
    let other = 0;
    try {
      for (const text of (await file.text()).split("\n")) {
        if (!text.trim()) continue;
        const line = JSON.parse(text);
        const entry = byKey.get(keyOf(line));
        if (entry && line.decision) {
          entry.line.decision = line.decision;
          if (line.decision !== "ignore") entry.line.to = line.to;
          taken++;
        } else if (line.decision) other++;
      }
    } catch (error) {
      element("state").textContent = `${file.name} is no review: ${error.message}`;
      return;
    }
    render();
    element("state").textContent = `${taken} decisions taken from ${file.name}${other ? `, ${other} are about other rows` : ""}`;
  }

  // ---- events ------------------------------------------------------------------------------------------------------
  const KEYS = { j: () => move(1), ArrowDown: () => move(1), k: () => move(-1), ArrowUp: () => move(-1), a: accept, r: reject, d: drop, l: choose, s: () => move(1), u: undo };
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.closest?.("input, select, textarea");
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
    event.preventDefault();
    if (current < 0 && !"jk".includes(event.key)) setCurrent(0);
    KEYS[event.key]();
  });
  element("more").addEventListener("click", showMore);
  element("save").addEventListener("click", save);
  element("load").addEventListener("click", () => element("file").click());
  element("file").addEventListener("change", (event) => {
    if (event.target.files.length) load(event.target.files[0]);
    event.target.value = "";
  });
  let typing = 0;
  for (const name of FILTERS) {
    element(`filter-${name}`).addEventListener(name === "q" ? "input" : "change", () => {
      clearTimeout(typing);
      typing = setTimeout(writeHash, name === "q" ? 250 : 0);
    });
  }
  addEventListener("hashchange", () => {
    if (readHash()) render();
  });
  addEventListener("beforeunload", (event) => {
    if (unsaved) event.preventDefault();
  });

  fill("signal", entries.flatMap((entry) => [...new Set(signals(entry))]), "all");
  fill("field", entries.map((entry) => entry.line.field || "(row)"), "all");
  fill("split", entries.map(split), "all");
  fill("label", entries.flatMap((entry) => [...new Set(labels(entry))]), "all");
  fill("tag", entries.flatMap((entry) => entry.tags), "all");
  for (const [text, value] of [["open", "open"], ["decided", "decided"], ["relabelled", "relabel"], ["removed", "drop"], ["kept", "ignore"], ["merged", "merge"], ["all", "all"]]) {
    element("filter-decision").append(new Option(text, value));
  }
  readHash();
  render();
})();
