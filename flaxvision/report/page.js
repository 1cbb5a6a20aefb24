"use strict";
(() => {
  const all = (root, selector) => [...root.querySelectorAll(selector)];
  const SVG = new DOMParser().parseFromString("<svg></svg>", "text/html").body.firstChild.namespaceURI;

  /** An element with attributes and children. */
  function make(name, attributes = {}, ...children) {
    const svg = ["svg", "g", "path", "line", "text", "circle", "clipPath", "rect"].includes(name);
    const element = svg ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  // Tables: a click on a heading sorts, words filter, and of many rows the first ones stand alone until asked for more.

  /** A cell's text, or the number that it begins with. */
  function valueOf(row, column) {
    const text = row.cells[column].textContent.trim();
    const number = parseFloat(text.replace(/−/g, "-").replace(/,/g, ""));
    return Number.isNaN(number) ? text : number;
  }

  function compare(a, b) {
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
  }

  function sortable(table) {
    const body = table.tBodies[0];
    const heads = all(table.tHead.rows[table.tHead.rows.length - 1], "th");
    heads.forEach((head, column) => {
      const button = make("button", { type: "button" }, ...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...body.rows].map((row) => [valueOf(row, column), row]);
        rows.sort(([a], [b]) => {
          const missing = (a === "–") - (b === "–"); // these stay at the end
          return missing || (down ? -compare(a, b) : compare(a, b));
        });
        body.append(...rows.map(([, row]) => row));
      });
    });
  }

  function filterable(table) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const names = all(table.tHead.rows[table.tHead.rows.length - 1], "th").map((head) => head.textContent.trim());
    const most = Number(table.dataset.most) || rows.length;
    const example = table.dataset.example ? `filter, such as ${table.dataset.example}` : "filter";
    const input = make("input", { type: "search", placeholder: example, "aria-label": "filter rows" });
    const more = make("button", { type: "button" });
    const count = make("span", { class: "faint", role: "status" });
    let every = false;

    /** Whether a row has a word: "key=value" means that column's whole text. */
    function has(row, word) {
      const [key, value] = word.split("=");
      const column = names.indexOf(key);
      if (value !== undefined && column >= 0) return row.cells[column].textContent.trim() === value;
      return row.textContent.toLowerCase().includes(word.toLowerCase());
    }

    function show() {
      const words = input.value.split(/\s+/).filter(Boolean);
      const found = [...body.rows].filter((row) => words.every((word) => has(row, word)));
      const shown = words.length || every ? found : found.slice(0, most);
      rows.forEach((row) => { row.hidden = true; });
      shown.forEach((row) => { row.hidden = false; });
      count.textContent = shown.length < rows.length ? `${shown.length} of ${rows.length}` : `${rows.length} rows`;
      more.textContent = every ? `the best ${most} only` : `show all ${rows.length}`;
      more.hidden = words.length > 0 || most >= rows.length;
    }

    input.addEventListener("input", show);
    more.addEventListener("click", () => { every = !every; show(); });
    (table.closest(".scroll") || table).before(make("div", { class: "tools" }, input, count, more));
    show();
  }

  // Curves: a chart a panel, with the values of an epoch below it.

  const power = (value) => 10 ** Math.floor(Math.log10(value));

  /** Round numbers in [low, high], about as many as asked for. */
  function ticks(low, high, count, whole) {
    const rough = (high - low) / count || 1;
    const step = [1, 2, 5, 10].map((factor) => factor * power(rough)).find((size) => size >= rough);
    const size = whole ? Math.max(1, Math.round(step)) : step;
    const found = [];
    for (let at = Math.ceil(low / size - 1e-9); at * size <= high * (1 + 1e-9); at += 1) found.push(at * size);
    return found;
  }

  function logTicks(low, high) {
    for (const factors of [[1], [1, 3], [1, 2, 5], [1, 2, 3, 4, 5, 6, 7, 8, 9]]) {
      const found = [];
      for (let base = power(low); base <= high; base *= 10) found.push(...factors.map((factor) => factor * base));
      const inside = found.filter((tick) => tick >= low && tick <= high);
      if (inside.length >= 3) return inside;
    }
    return [low, high];
  }

  const plain = (value) => String(Number(value.toPrecision(3)));
  const decimals = (value, plot) => (plot.percent ? 2 : Math.max(0, 3 - Math.floor(Math.log10(Math.abs(value) || 1))));

  function draw(plot, box) {
    box.replaceChildren(make("h3", {}, plot.label));
    const room = Math.max(1, Math.min(plot.panels.length, Math.floor(box.clientWidth / 290)));
    let columns = room; // of panels side by side, so many that the rows break where a key does
    while (columns > 1 && plot.across % columns) columns -= 1;
    if (columns === 1) columns = room;
    box.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
    const width = Math.floor((box.clientWidth - 24 * (columns - 1)) / columns);
    plot.panels.forEach((panel, index) => box.append(drawPanel(plot, panel, width, `${plot.kind}-${index}`)));
  }

  function drawPanel(plot, panel, width, id) {
    const [left, right, top, bottom] = [44, 8, panel.title ? 22 : 8, 34];
    const height = Math.round(Math.min(300, Math.max(190, 0.6 * width)));
    const scale = plot.log ? Math.log10 : Number;
    const [low, high] = plot.limits.map(scale);
    const [first, last] = plot.last > 1 ? [1, plot.last] : [0.5, 1.5];
    const x = (epoch) => left + ((epoch - first) / (last - first)) * (width - left - right);
    const y = (value) => {
      const share = (scale(Math.max(value, plot.log ? 1e-30 : value)) - low) / (high - low);
      return top + (1 - Math.min(9, Math.max(-9, share))) * (height - top - bottom);
    };
    const svg = make("svg", { width, height, role: "img", tabindex: 0, "aria-label": `${plot.label} ${panel.title}` });
    if (panel.title) svg.append(make("text", { class: "title", x: left, y: 12 }, panel.title));
    const marks = plot.log ? logTicks(...plot.limits) : ticks(...plot.limits, 6);
    for (const tick of marks) {
      svg.append(make("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }));
      svg.append(make("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, plain(tick)));
    }
    for (const tick of ticks(first, last, Math.min(6, width / 60), true).filter((epoch) => epoch >= 1)) {
      svg.append(make("text", { x: x(tick), y: height - bottom + 16, "text-anchor": "middle" }, plain(tick)));
    }
    svg.append(make("text", { x: width - right, y: height - 4, "text-anchor": "end" }, "epoch"));
    svg.append(make("clipPath", { id }, make("rect", { x: left, y: top, width: width - left - right, height: height - top - bottom })));
    const lines = make("g", { class: "lines", "clip-path": `url(#${id})` });
    const groups = panel.lines.map((line) => drawLine(line, x, y, plot));
    lines.append(...groups);
    const guide = make("line", { class: "guide", y1: top, y2: height - bottom });
    svg.append(guide, lines);
    const readout = make("table");
    const holder = make("div", {}, svg, readout);

    function show(epoch) {
      guide.setAttribute("x1", x(epoch));
      guide.setAttribute("x2", x(epoch));
      readout.replaceChildren(readoutOf(plot, panel, groups, epoch));
    }

    let at = plot.last;
    svg.addEventListener("pointermove", (event) => {
      const share = (event.clientX - svg.getBoundingClientRect().left - left) / (width - left - right);
      at = Math.min(plot.last, Math.max(1, Math.round(first + share * (last - first))));
      show(at);
    });
    svg.addEventListener("pointerleave", () => { at = plot.last; show(at); });
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) { at = Math.min(plot.last, Math.max(1, at + step)); show(at); event.preventDefault(); }
    });
    show(at);
    return holder;
  }

  function drawLine(line, x, y, plot) {
    const group = make("g", { stroke: line.color, fill: line.color });
    const path = (values) => values.map((value, i) => (value === null ? "" : `${i && values[i - 1] !== null ? "L" : "M"}${x(i + 1)},${y(value)}`)).join("");
    const floor = (value) => (plot.log ? Math.max(value, 1e-30) : value);
    if (line.std.some((value) => value > 0)) {
      const upper = line.shown.map((value, i) => `${x(i + 1)},${y(value + line.std[i])}`);
      const lower = line.shown.map((value, i) => `${x(i + 1)},${y(floor(value - line.std[i]))}`);
      group.append(make("path", { class: "band", d: `M${[...upper, ...lower.reverse()].join("L")}Z`, style: `fill: ${line.color}` }));
    }
    group.append(make("path", { class: "train", d: path(line.train) }), make("path", { d: path(line.shown) }));
    for (const values of line.single) group.append(make("path", { class: "single", d: path(values) }));
    if (plot.last === 1 && line.shown.length) group.append(make("circle", { cx: x(1), cy: y(line.shown[0]), r: 3.5 }));
    return group;
  }

  /** The lines of a panel and their values at an epoch. */
  function readoutOf(plot, panel, groups, epoch) {
    const body = make("tbody");
    const head = ["label", "", ""].map((name, i) => make("th", name ? { class: name } : {}, [`epoch ${epoch}`, plot.split, "train"][i]));
    body.append(make("tr", {}, ...head));
    panel.lines.forEach((line, i) => {
      const at = (values) => values[epoch - 1] ?? null;
      const written = (value) => (value === null ? "–" : value.toFixed(Math.min(20, decimals(value, plot))));
      const spread = at(line.std) ? ` ± ${at(line.std).toFixed(Math.min(20, decimals(at(line.shown), plot)))}` : "";
      const swatch = make("span", { class: "swatch", style: `background: ${line.color}` });
      const row = make("tr", {}, make("td", { class: "label" }, swatch, line.name || "all"), make("td", {}, written(at(line.shown)) + spread), make("td", {}, written(at(line.train))));
      row.addEventListener("pointerenter", () => groups.forEach((group, j) => group.classList.toggle("pale", j !== i)));
      row.addEventListener("pointerleave", () => groups.forEach((group) => group.classList.remove("pale")));
      body.append(row);
    });
    return body;
  }

  all(document, "table.sortable").forEach(sortable);
  all(document, "table.filterable").forEach(filterable);
  const data = document.getElementById("plots");
  const plots = data ? JSON.parse(data.textContent) : [];
  for (const plot of plots) {
    const box = document.getElementById(`chart-${plot.kind}`);
    let drawn = 0;
    new ResizeObserver(() => {
      if (box.clientWidth === drawn) return;
      drawn = box.clientWidth;
      draw(plot, box);
    }).observe(box);
  }
  document.documentElement.classList.add("js");
})();
