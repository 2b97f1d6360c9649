"use strict";
// Filters and sorts the table of requests. Without this script the table is whole and the worst stands first.
(() => {
  const CHUNK = 50; // rows of a table body; the browser leaves bodies out of sight unpainted
  const [FIRST, NEXT] = [50, 250]; // rows shown at once, and in each turn of the browser after that
  const table = document.querySelector("table.register");
  const form = document.querySelector("form.tools");
  const told = form.querySelector("output");
  const ticks = [...document.querySelectorAll(".tally input")];
  const heads = [...table.tHead.rows[0].cells];
  const column = (name) => heads.findIndex((head) => head.dataset.name === name);
  const [due, progress] = [column("deadline"), column("progress")];
  const { lang } = document.documentElement;
  const number = new Intl.NumberFormat(lang);
  const items = [...table.tBodies].flatMap((body) => [...body.rows]).map((row) => ({ row, keys: [] }));
  const sorting = { by: -1, down: false }; // -1: as the page came, the worst first

  const key = (item, place) => {
    if (!(place in item.keys)) {
      const cell = item.row.children[place];
      const value = cell.dataset.v ?? cell.textContent.trim();
      item.keys[place] = value === "" ? null : heads[place].dataset.kind === "number" ? Number(value) : value;
    }
    return item.keys[place];
  };

  const compare = (one, other) => {
    const [a, b] = [key(one, sorting.by), key(other, sorting.by)];
    if (a === null || b === null) return (a === null) - (b === null); // what is not known comes last either way
    const found = a < b ? -1 : a > b ? 1 : 0;
    return sorting.down ? -found : found;
  };

  const isDue = (item, wanted) => {
    const left = item.row.children[due].dataset.left;
    if (wanted === "none") return left === undefined;
    return left !== undefined && (wanted === "overdue" ? left < 0 : left >= 0 && left <= Number(form.dataset.soon));
  };

  const matching = () => {
    const asked = form.q.value.toLocaleLowerCase(lang).split(/\s+/).filter(Boolean);
    const outcomes = new Set(ticks.filter((tick) => tick.checked).map((tick) => tick.value));
    const batch = form.batch?.value;
    return items.filter((item) => {
      if (outcomes.size && !outcomes.has(item.row.className)) return false;
      if (form.due.value && !isDue(item, form.due.value)) return false;
      if (form.progress.value && key(item, progress) !== form.progress.value) return false;
      if (batch && item.row.dataset.batch !== batch) return false;
      if (!asked.length) return true;
      item.text ??= item.row.textContent.toLocaleLowerCase(lang);
      return asked.every((word) => item.text.includes(word));
    });
  };

  let waiting = []; // rows that are still to be laid out
  let turn = 0;
  const lay = (count) => {
    const bodies = [];
    for (let first = 0; first < Math.min(count, waiting.length); first += CHUNK) {
      const body = document.createElement("tbody");
      body.append(...waiting.slice(first, first + CHUNK).map((item) => item.row));
      bodies.push(body);
    }
    table.append(...bodies);
    waiting = waiting.slice(count);
    if (waiting.length) turn = setTimeout(lay, 0, NEXT);
  };
  window.addEventListener("beforeprint", () => lay(waiting.length));

  const show = () => {
    const shown = matching();
    if (sorting.by >= 0) shown.sort(compare);
    for (const body of [...table.tBodies]) body.remove();
    clearTimeout(turn);
    waiting = shown;
    lay(FIRST);
    heads.forEach((head, place) => {
      if (place === sorting.by) head.setAttribute("aria-sort", sorting.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    told.textContent = told.dataset.text
      .replace("{shown}", number.format(shown.length))
      .replace("{total}", number.format(items.length));
  };

  // The address keeps what is chosen, so that a link or a bookmark shows it again.
  const fields = () => [...form.elements].filter((field) => field.name);
  const write = () => {
    const kept = new URLSearchParams();
    for (const field of fields()) if (field.value) kept.set(field.name, field.value);
    const outcomes = ticks.filter((tick) => tick.checked).map((tick) => tick.value);
    if (outcomes.length) kept.set("outcome", outcomes.join(","));
    if (sorting.by >= 0) kept.set("sort", (sorting.down ? "-" : "") + heads[sorting.by].dataset.name);
    history.replaceState(null, "", "#" + kept);
  };
  const read = () => {
    const kept = new URLSearchParams(location.hash.slice(1));
    for (const field of fields()) {
      field.value = kept.get(field.name) ?? "";
      if (field.selectedIndex === -1) field.value = ""; // nothing of that name is in the list
    }
    const outcomes = (kept.get("outcome") ?? "").split(",");
    for (const tick of ticks) tick.checked = outcomes.includes(tick.value);
    const sort = kept.get("sort") ?? "";
    sorting.down = sort.startsWith("-");
    sorting.by = column(sort.replace("-", ""));
    show();
  };
  const changed = () => {
    write();
    show();
  };

  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => {
      sorting.down = sorting.by === place && !sorting.down;
      sorting.by = place;
      changed();
    });
    head.append(button);
  });
  for (const tick of ticks) {
    tick.hidden = false;
    tick.addEventListener("change", changed);
  }
  form.addEventListener("input", changed);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    history.replaceState(null, "", "#");
    read();
  });
  window.addEventListener("hashchange", read);
  form.hidden = false;
  if (location.hash.length > 1) read();
  else told.textContent = "";
})();
