"use strict";
(() => {
  const facts = JSON.parse(document.getElementById("facts").textContent);
  const byId = (id) => document.getElementById(id);
  const make = (name, attributes = {}, ...inside) => {
    const svg = ["svg", "g", "line", "path", "text", "rect", "polyline"].includes(name);
    const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (value !== null && value !== false) node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...inside);
    return node;
  };
  const shown = (x) => {
    if (typeof x === "string") return x.slice(0, 20);  // of an address, where a number was wanted
    if (x === null || x === undefined || !isFinite(x)) return "–";
    if (x === 0) return "0";
    const size = Math.abs(x);
    return size >= 1e5 || size < 1e-3 ? x.toExponential(1).replace("e+", "e") : String(+x.toPrecision(3));
  };
  const palette = (k, n) => `hsl(${(205 + (k * 360) / Math.max(n, 1) * 0.8) % 360} 65% ${matchMedia("(prefers-color-scheme: dark)").matches ? 66 : 40}%)`;

  // The state of the page: the knobs of run A, and for run B the one knob that differs.
  const state = { a: { ...facts.first }, knob: "", value: null, tab: "run" };
  const has = (object, key) => Object.prototype.hasOwnProperty.call(object, key);
  // A value of an address as the page keeps it: a number where the knob is one, and a text that is none as it is, which
  // the server then refuses by its name.
  const valueOf = (knob, text) => (typeof facts.first[knob] === "number" && text.trim() !== "" && !isNaN(text) ? Number(text) : text);
  const comparable = (knob) => knob === "optimizer" || (has(facts.bounds, knob) && visible(knob));
  const read = () => {
    const given = new URLSearchParams(location.search);
    for (const [key, value] of given) if (has(facts.first, key)) state.a[key] = valueOf(key, value);
    const knob = given.get("compare") || "";
    if (comparable(knob)) { state.knob = knob; state.value = valueOf(knob, given.get("with") ?? String(state.a[knob])); }
    if (["table", "checkpoint"].includes(given.get("tab"))) state.tab = given.get("tab");
  };
  const parameters = (knobs) => {
    const found = new URLSearchParams();
    for (const [key, value] of Object.entries(knobs)) if (value !== facts.first[key]) found.set(key, value);
    return found;
  };
  const address = () => {
    const found = parameters(state.a);
    if (state.knob) { found.set("compare", state.knob); found.set("with", state.value); }
    if (state.tab !== "run") found.set("tab", state.tab);
    return `${location.pathname}?${found}`;
  };

  // Knobs.
  const slider = (name, value, changed, id = `knob-${name}`) => {
    const modes = name === "depth" && ["cp", "train", "hierarchical"].includes(state.a.family);  // an order is a whole number
    const bounds = modes ? { ...facts.bounds[name], least: 2, step: 1, label: "order" } : facts.bounds[name], log = bounds.step === 0;
    const input = make("input", {
      type: "range", id, name, title: bounds.help, min: log ? Math.log10(bounds.least) : bounds.least,
      max: log ? Math.log10(bounds.most) : bounds.most, step: log ? 0.125 : bounds.step });
    const output = make("output", { for: id });
    const read = () => (log ? Number((10 ** Number(input.value)).toPrecision(3)) : Number(input.value));
    input.value = log ? Math.log10(value) : value;
    output.textContent = name === "width" && value === 0 ? "never limits" : shown(value);
    input.addEventListener("input", () => { output.textContent = name === "width" && read() === 0 ? "never limits" : shown(read()); changed(read()); });
    return make("label", { title: bounds.help }, make("span", { class: "name" }, bounds.label, output), input);
  };
  const choice = (name, label, options, value, changed) => {
    const select = make("select", { id: `knob-${name}`, name, onchange: (event) => changed(event.target.value) },
      ...Object.entries(options).map(([key, text]) => make("option", { value: key, selected: key === value }, text)));
    return make("label", {}, label, select);
  };
  const set = (name, value, rebuild) => {
    state.a[name] = value;
    if (name === "family" && ["cp", "train", "hierarchical"].includes(value)) Object.assign(state.a, { depth: value === "hierarchical" ? 4 : 3, size: Math.min(state.a.size, value === "hierarchical" ? 5 : 8), start: Math.max(state.a.start, 0.01), width: value === "cp" ? 24 : 8 });
    if (name === "family" && value === "einsum") Object.assign(state.a, { size: Math.min(state.a.size, 12), depth: Math.round(state.a.depth) });
    if (name === "family" && value === "matrix") Object.assign(state.a, { ...facts.first });
    if (state.knob && !comparable(state.knob)) state.knob = "";
    if (rebuild) build();
    later();
  };
  const visible = (name) => {
    const families = facts.bounds[name].families;
    if (families.length && !families.includes(state.a.family)) return false;
    return name !== "rate" || state.a.optimizer !== "flow";
  };
  // A value of a knob that differs from the first run's, so that two runs beside each other show a difference at once.
  const another = (knob, value) => {
    if (knob === "optimizer") return value === "adam" ? "flow" : "adam";
    if (knob === "depth") return value === 2 ? 3 : 2;
    if (knob === "width") return value === 0 ? state.a.rank : 0;
    if (knob === "size") return value > 8 ? value / 2 | 0 : value + 2;
    if (facts.bounds[knob].step === 0) return value >= 0.03 ? Number((value / 10).toPrecision(3)) : Number((value * 10).toPrecision(3));
    const { least, most, step } = facts.bounds[knob], further = value + step * (step < 1 ? 4 : 1);
    return +(further <= most ? further : Math.max(least, value - step * (step < 1 ? 4 : 1))).toFixed(4);
  };
  const build = () => {
    const form = byId("knobs");
    const titles = Object.fromEntries(Object.entries(facts.presets).map(([key, preset]) => [key, preset.title]));
    const same = (preset) => Object.entries(preset.knobs).every(([key, value]) => state.a[key] === value);
    const chosen = (Object.entries(facts.presets).find(([, preset]) => same(preset)) || [""])[0];
    form.replaceChildren(
      choice("preset", "Start from a figure of the talk", { "": "settings of your own", ...titles }, chosen, (key) => {
        if (key) { state.a = { ...facts.presets[key].knobs }; state.knob = ""; build(); later(); }
      }),
      choice("family", "Factorization", facts.families, state.a.family, (value) => set("family", value, true)));
    if (state.a.family === "einsum") {
      const input = make("input", { id: "knob-einsum", value: state.a.einsum, maxlength: 40, spellcheck: "false", onchange: (event) => set("einsum", event.target.value) });
      form.append(make("label", {}, "Einsum", input));
    }
    for (const name of Object.keys(facts.bounds)) if (visible(name)) form.append(slider(name, state.a[name], (value) => set(name, value)));
    form.append(choice("optimizer", "Optimizer", facts.optimizers, state.a.optimizer, (value) => set("optimizer", value, true)));
    const names = Object.fromEntries(Object.keys(facts.bounds).filter(visible).map((name) => [name, facts.bounds[name].label]));
    const other = make("fieldset", {}, make("legend", {}, "A second run beside it"),
      choice("compare", "One knob differs", { "": "no second run", ...names, optimizer: "optimizer" }, state.knob, (key) => {
        state.knob = key;
        state.value = key ? another(key, state.a[key]) : null;
        build(); later();
      }));
    if (state.knob === "optimizer") other.append(choice("with", "In the second run", facts.optimizers, state.value, (value) => { state.value = value; later(); }));
    else if (state.knob) {
      other.append(slider(state.knob, state.value, (value) => { state.value = value; later(); }, "knob-with"));
    }
    form.append(other);
    form.append(make("details", {}, make("summary", {}, "What the knobs do"), make("dl", {},
      ...Object.keys(facts.bounds).filter(visible).flatMap((name) => [make("dt", {}, facts.bounds[name].label), make("dd", {}, facts.bounds[name].help)]))));
  };

  // A chart: curves over one axis, drawn anew whenever rows arrive.
  const WIDTH = 420, HEIGHT = 270, LEFT = 62, RIGHT = 14, TOP = 26, BOTTOM = 46;
  const ticks = (low, high, log) => {
    if (log) {
      const first = Math.ceil(low), last = Math.floor(high), step = Math.max(1, Math.ceil((last - first) / 5));
      return Array.from({ length: Math.max(0, Math.floor((last - first) / step) + 1) }, (_, k) => first + k * step);
    }
    const raw = (high - low) / 5 || 1, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((k) => k * power).find((x) => x >= raw) || raw;
    const found = [];
    for (let x = Math.ceil(low / step) * step; x <= high + 1e-9 * step; x += step) found.push(+x.toPrecision(6));
    return found;
  };
  const chart = (title, labels, see) => {
    const log = { x: false, y: false };
    const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title, tabindex: 0 });
    const told = make("p", { class: "soft" }, see);
    const boxes = ["y", "x"].map((axis) => make("label", {}, make("input", { type: "checkbox", onchange: (event) => { log[axis] = event.target.checked; draw(); } }), ` logarithmic ${axis}`));
    const figure = make("figure", {}, make("figcaption", {}, title), svg, make("p", { class: "doing soft" }, ...boxes), told);
    let data = null, scale = null;
    const draw = () => {
      if (!data || !data.curves.length) return;
      const map = (v, axis) => (log[axis] ? (v > 0 ? Math.log10(v) : null) : v);
      const xs = [], ys = [];
      for (const curve of data.curves) curve.x.forEach((x, k) => { const a = map(x, "x"), b = map(curve.y[k], "y"); if (a !== null && b !== null && curve.y[k] !== null) { xs.push(a); ys.push(b); } });
      if (!xs.length) return;
      let [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
      if (data.until && map(data.until, "x") !== null && data.until < 3 * Math.max(data.last || 0, 1e-300)) x1 = Math.max(x1, map(data.until, "x"));
      if (!log.y && y0 > 0 && y0 < 0.7 * y1) y0 = 0;
      if (x1 === x0) x1 = x0 + 1; if (y1 === y0) y1 = y0 + 1;
      if (log.y) y0 = Math.max(y0, y1 - 12);
      y1 += 0.03 * (y1 - y0);  // a curve along the frame would not be seen
      scale = { x: (v) => LEFT + ((map(v, "x") - x0) / (x1 - x0)) * (WIDTH - LEFT - RIGHT), y: (v) => HEIGHT - BOTTOM - ((Math.max(map(v, "y") ?? y0, y0) - y0) / (y1 - y0)) * (HEIGHT - TOP - BOTTOM) };
      const parts = [make("rect", { class: "frame", x: LEFT, y: TOP, width: WIDTH - LEFT - RIGHT, height: HEIGHT - TOP - BOTTOM })];
      for (const t of ticks(x0, x1, log.x)) { const at = LEFT + ((t - x0) / (x1 - x0)) * (WIDTH - LEFT - RIGHT); parts.push(make("line", { class: "grid", x1: at, x2: at, y1: TOP, y2: HEIGHT - BOTTOM }), make("text", { x: at, y: HEIGHT - BOTTOM + 17, "text-anchor": "middle" }, shown(log.x ? 10 ** t : t))); }
      for (const t of ticks(y0, y1, log.y)) { const at = HEIGHT - BOTTOM - ((t - y0) / (y1 - y0)) * (HEIGHT - TOP - BOTTOM); parts.push(make("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: at, y2: at }), make("text", { x: LEFT - 5, y: at + 4, "text-anchor": "end" }, shown(log.y ? 10 ** t : t))); }
      parts.push(make("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, labels[0]), make("text", { x: 14, y: (HEIGHT - BOTTOM) / 2, "text-anchor": "middle", transform: `rotate(-90 14 ${(HEIGHT - BOTTOM) / 2})` }, labels[1]));
      data.curves.forEach((curve, k) => {
        const points = [];
        curve.x.forEach((x, i) => { const a = map(x, "x"); if (a !== null && curve.y[i] !== null && map(curve.y[i], "y") !== null) points.push(`${scale.x(x).toFixed(1)},${scale.y(curve.y[i]).toFixed(1)}`); });
        parts.push(make("polyline", { class: "curve", points: points.join(" "), stroke: palette(k, data.curves.length) }));
        let drawn = [-99, -99];  // where the last piece of the law lies: pieces keep a distance of 26 pixels
        if (curve.slope) curve.slope.forEach((rate, i) => {
          const a = map(curve.x[i], "x"), b = map(curve.y[i], "y");
          if (rate === null || a === null || b === null || b <= y0) return;
          const here = [scale.x(curve.x[i]), scale.y(curve.y[i])];
          if (Math.hypot(here[0] - drawn[0], here[1] - drawn[1]) < 26) return;
          const speed = rate * (log.x ? curve.x[i] : 1) / (log.y ? curve.y[i] : 1);
          const run = (WIDTH - LEFT - RIGHT) / (x1 - x0), rise = -speed * (HEIGHT - TOP - BOTTOM) / (y1 - y0), length = Math.hypot(run, rise);
          if (Math.abs(rise / run) < 0.02 || !isFinite(length)) return;
          drawn = here;
          const [dx, dy] = [9 * run / length, 9 * rise / length];
          parts.push(make("line", { class: "law", x1: here[0] - dx, x2: here[0] + dx, y1: here[1] - dy, y2: here[1] + dy }));
        });
      });
      if (data.until && map(data.until, "x") !== null && map(data.until, "x") <= x1) { const at = scale.x(data.until); parts.push(make("line", { class: "escape", x1: at, x2: at, y1: TOP, y2: HEIGHT - BOTTOM }), make("text", { x: Math.min(at + 4, WIDTH - RIGHT), y: TOP - 8, "text-anchor": at > WIDTH / 2 ? "end" : "start" }, "next one expected")); }
      let next = LEFT;  // the names of few curves stand above the frame, where they cover none
      if (data.curves.length > 1 && data.curves.length <= 4) data.curves.forEach((curve, k) => {
        parts.push(make("line", { x1: next, x2: next + 14, y1: TOP - 10, y2: TOP - 10, stroke: palette(k, data.curves.length), "stroke-width": 3 }), make("text", { x: next + 18, y: TOP - 6 }, curve.name));
        next += 30 + 6.6 * curve.name.length;
      });
      svg.replaceChildren(...parts);
    };
    const point = (event) => {
      if (!scale || !data) return;
      const box = svg.getBoundingClientRect(), at = ((event.clientX - box.left) / box.width) * WIDTH;
      const first = data.curves[0]; let best = 0, gap = Infinity;
      first.x.forEach((x, k) => { const d = Math.abs(scale.x(x) - at); if (d < gap) { gap = d; best = k; } });
      svg.querySelectorAll(".hover").forEach((node) => node.remove());
      const place = scale.x(first.x[best]);
      svg.append(make("line", { class: "hover", x1: place, x2: place, y1: TOP, y2: HEIGHT - BOTTOM }));
      told.textContent = `${labels[0]} ${shown(first.x[best])}: ${data.curves.slice(0, 6).map((curve) => `${curve.name} ${shown(curve.y[best])}`).join(", ")}`;
    };
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerleave", () => { told.textContent = see; svg.querySelectorAll(".hover").forEach((node) => node.remove()); });
    return { figure, name: (text) => { labels[0] = text; }, show: (next) => { data = next; draw(); }, set: (axis, value) => { log[axis] = value; boxes[axis === "y" ? 0 : 1].querySelector("input").checked = value; draw(); } };
  };
  const picture = (caption) => {
    const canvas = make("canvas", { role: "img", "aria-label": caption });
    return { node: make("div", {}, caption, canvas), show: (rows, largest) => {
      canvas.height = rows.length; canvas.width = rows[0].length;
      const context = canvas.getContext("2d"), pixels = context.createImageData(canvas.width, canvas.height);
      rows.flat().forEach((v, k) => { const t = Math.max(-1, Math.min(1, (v || 0) / largest)), away = 255 * (1 - Math.abs(t));
        pixels.data.set(t >= 0 ? [away, away * 0.6 + 102, 255, 255] : [255, away * 0.7 + 76, away, 255], 4 * k); });
      context.putImageData(pixels, 0, 0);
    } };
  };

  // A run: its pictures, and the stream that fills them.
  const runs = { a: null, b: null };
  const open = (which, knobs, title) => {
    const charts = {
      sizes: chart("Size of every component", ["time", "size"], "One curve per component. Short thick lines: the speed that the theory predicts."),
      loss: chart("Loss", ["time", "loss"], "How far the fit is from the observed entries. It falls in steps, one per component learned."),
      rank: chart("Effective rank", ["time", "effective rank"], "How many components matter now."),
      norms: chart("Norms against the loss", ["loss", "norm"], "Read from right to left, as the loss falls. If norms rise on the way, the fit does not minimize them.") };
    const images = { now: picture("fitted now"), target: picture("target") };
    const along = make("select", { "aria-label": "Horizontal axis", onchange: () => draw() }, make("option", { value: "at" }, "over time"), make("option", { value: "length" }, "over the distance that the fit has moved: plateaus vanish"));
    const told_here = make("p", { class: "soft", hidden: which === "a" });
    const node = make("div", {}, title ? make("p", { class: `run-name ${which}` }, title) : "", told_here, along,
      make("div", { class: "pair" }, ...Object.values(charts).map((c) => c.figure),
        make("figure", {}, make("figcaption", {}, "The fit, beside the target of which it sees only some entries"), make("div", { class: "images" }, images.now.node, images.target.node), make("p", { class: "soft" }, "Blue is positive, orange negative, white zero."))));
    charts.loss.set("y", true); charts.norms.set("x", true);
    const rows = { at: [], loss: [], length: [], effective_rank: [], nuclear: [], frobenius: [], sigma: {}, rate: {} };
    let start = null, until = null, largest = 1, pending = false;
    const draw = () => {
      pending = false;
      if (!start || !rows.at.length) return;
      const x = rows[along.value]; for (const one of [charts.sizes, charts.loss, charts.rank]) one.name(along.value === "at" ? start.axis : "distance moved"); const last = x[x.length - 1], over = along.value === "at";
      const keys = Object.keys(rows.sigma).map(Number).sort((p, q) => (rows.sigma[q].at(-1) || 0) - (rows.sigma[p].at(-1) || 0)).slice(0, 12);
      charts.sizes.show({ last, until: over ? until : null, curves: keys.map((k, place) => ({ name: `no. ${place + 1}`, x, y: rows.sigma[k], slope: over ? rows.rate[k] : null })) });
      charts.loss.show({ last, curves: [{ name: "loss", x, y: rows.loss }] });
      charts.rank.show({ last, curves: [{ name: "effective rank", x, y: rows.effective_rank }] });
      charts.norms.show({ last, curves: [{ name: "nuclear norm", x: rows.loss, y: rows.nuclear }, { name: "Frobenius norm", x: rows.loss, y: rows.frobenius }] });
    };
    const source = new EventSource(`run?${parameters(knobs)}`);
    const told = (kind, handler) => source.addEventListener(kind, (event) => handler(JSON.parse(event.data)));
    const close = () => { source.close(); if (which === "a") byId("stop").disabled = true; };
    told("wait", () => { byId("note").textContent = "Other runs of this laboratory go on; this one waits for its turn."; });
    told("start", (found) => { start = found;  largest = Math.max(...found.target.flat().map(Math.abs), 1e-9); images.target.show(found.target, largest); if (which === "a") byId("note").textContent = `${found.observed} of ${found.entries} entries are observed.`; });
    told("rows", (found) => {
      for (const name of ["at", "loss", "length", "effective_rank", "nuclear", "frobenius"]) rows[name].push(...found[name]);
      const before = rows.at.length - found.at.length;
      for (const name of ["sigma", "rate"]) {
        found.which.forEach((k, column) => { rows[name][k] = rows[name][k] || Array(before).fill(null); rows[name][k].push(...found[name].map((row) => row[column])); });
        for (const k of Object.keys(rows[name])) while (rows[name][k].length < rows.at.length) rows[name][k].push(null);
      }
      if (which === "a") { const first = rows.loss[0], now = rows.loss.at(-1); byId("progress").value = Math.max(0, Math.min(1, Math.log(first / now) / Math.log(first / 1e-4))); }
      if (!pending) { pending = true; requestAnimationFrame(draw); }
    });
    told("state", (found) => { images.now.show(found.image, largest); until = found.escape ? found.escape.at : null; if (which === "a") byId("reading").textContent = found.reading; });
    told("end", (found) => { close(); draw(); node.dataset.ended = found.stopped; if (which === "a") { byId("progress").value = 1; byId("stop").disabled = true; byId("note").textContent += ` ${found.evaluations} gradients in ${shown(found.seconds)} seconds.`; } });
    const failed = (why) => { close(); node.dataset.ended = "failed"; if (which === "a") byId("reading").textContent = why; else { told_here.hidden = false; told_here.textContent = why; } };
    told("failed", (found) => failed(found.why));
    source.onerror = () => failed("The laboratory does not answer. If it was stopped, start `ranklens lab` again and open the address that it prints.");
    return { node, close };
  };
  const begin = () => {
    for (const run of Object.values(runs)) if (run) run.close();
    byId("stop").disabled = false; byId("progress").value = 0; byId("note").textContent = "";
    history.replaceState(null, "", address());
    byId("link").href = address();
    for (const what of ["record", "figure"]) byId(what).href = `${what}?${parameters(state.a)}`;
    if (!byId("script").hidden) program();
    const other = state.knob ? { ...state.a, [state.knob]: state.value } : null;
    const label = (knobs) => `${facts.bounds[state.knob] ? facts.bounds[state.knob].label : state.knob}: ${typeof knobs[state.knob] === "number" ? shown(knobs[state.knob]) : knobs[state.knob]}`;
    runs.a = open("a", state.a, other ? label(state.a) : "");
    runs.b = other ? open("b", other, label(other)) : null;
    byId("pictures").replaceChildren(...[runs.a, runs.b].filter(Boolean).map((run) => run.node));
    byId("pictures").className = other ? "pair" : "";
  };
  let timer = 0;
  const later = () => {
    const preset = byId("knob-preset");
    preset.value = (Object.entries(facts.presets).find(([, { knobs }]) => Object.entries(knobs).every(([key, value]) => state.a[key] === value)) || [""])[0];
    clearTimeout(timer); timer = setTimeout(begin, 60);
  };
  const program = async () => { const answer = await fetch(`script?${parameters(state.a)}`).catch(() => null); byId("script").textContent = answer ? await answer.text() : "The laboratory does not answer."; };
  byId("stop").addEventListener("click", () => { for (const run of Object.values(runs)) if (run) { run.close(); run.node.dataset.ended = run.node.dataset.ended || "stopped"; } byId("note").textContent += " Stopped; turn a knob to run again."; });
  byId("show-script").addEventListener("click", () => { const pre = byId("script"); pre.hidden = !pre.hidden; byId("show-script").setAttribute("aria-expanded", String(!pre.hidden)); if (!pre.hidden) program(); });
  byId("knobs").addEventListener("submit", (event) => event.preventDefault());

  // Tabs.
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const select = (tab) => { state.tab = tab.id.replace("tab-", ""); history.replaceState(null, "", address()); tabs.forEach((other) => { const on = other === tab; other.setAttribute("aria-selected", String(on)); other.tabIndex = on ? 0 : -1; byId(other.getAttribute("aria-controls")).hidden = !on; }); };
  tabs.forEach((tab, k) => { tab.addEventListener("click", () => select(tab)); tab.addEventListener("keydown", (event) => { const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key]; if (step) { const next = tabs[(k + step + tabs.length) % tabs.length]; select(next); next.focus(); } }); });

  // Tables and checkpoints: what is sent is answered by events, the last of which is "found" or "failed".
  const events = async (path, body, signal, handlers) => {
    const answer = await fetch(path, { method: "POST", body, signal });
    if (!answer.ok) { handlers.failed({ why: await answer.text() }); return; }
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let text = "", ended = false; !ended;) {
      const { value, done } = await reader.read();
      text += value || "";
      const blocks = text.split("\n\n");
      text = blocks.pop();
      for (const block of blocks) {
        const [, kind, data] = /^event: (.*)\ndata: (.*)$/.exec(block);
        if (kind in handlers) handlers[kind](JSON.parse(data));
        ended = ended || kind === "found" || kind === "failed";
      }
      if (done && !ended) { handlers.failed({ why: "The laboratory has gone before its answer was whole." }); return; }
    }
  };
  const size = (bytes) => `${shown(bytes / 2 ** 20)} MiB`;
  const job = (name, doing, found) => {
    const line = byId(`${name}-reading`), stop = byId(`${name}-stop`);
    let running = null;
    stop.addEventListener("click", () => { if (running) running.abort(); });
    return async (body) => {
      if (running) running.abort();
      const bytes = typeof body === "string" ? new Blob([body]).size : body.size;
      if (bytes > facts.most[name]) { line.textContent = `This has ${size(bytes)}; at most ${size(facts.most[name])} are taken here. Larger ones: ${name === "table" ? "rl.MatrixCompleter in Python" : "`ranklens rank FILE` in a terminal"}.`; return; }
      const own = running = new AbortController();
      line.textContent = doing; stop.hidden = false;
      const mine = (handler) => (content) => { if (running === own) handler(content); };
      try {
        await events(name, body, own.signal, {
          wait: mine(() => { line.textContent = "Others are being measured; this one waits for its turn."; }),
          beat: mine(({ doing: text }) => { line.textContent = `${doing} ${text}`; }),
          failed: mine(({ why }) => { line.textContent = why; }), found: mine(found) });
      } catch (error) {
        if (running === own) line.textContent = own.signal.aborted ? "Stopped." : "The laboratory does not answer. If it was stopped, start `ranklens lab` again.";
      }
      if (running === own) { running = null; stop.hidden = true; }
    };
  };

  // Your matrix.
  byId("table-file").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    if (!file) return;
    const fits = file.size <= facts.most.table;
    if (fits) byId("table").value = await file.text();
    byId("table-reading").textContent = fits ? "The file is in the box; complete it." : `${file.name} has ${size(file.size)}; at most ${size(facts.most.table)} are taken here. Larger ones: rl.MatrixCompleter in Python.`;
    event.target.value = "";
  });
  byId("example").addEventListener("click", () => { byId("table").value = Array.from({ length: 20 }, (_, i) => Array.from({ length: 12 }, (_, j) => ((i * 7 + j * 5) % 10 < 4 ? "" : (10 + (i + 1) * Math.sin(j / 2) + (20 - i) * Math.cos(j / 3)).toFixed(2))).join(",")).join("\n"); });
  const complete = job("table", "The table is being completed ...", (found) => {
    const best = found.ways.reduce((p, q) => (q.error < p.error ? q : p));
    byId("table-reading").textContent = `${found.shape[0]} x ${found.shape[1]} with ${found.holes} holes. ${found.held_out} numbers were hidden to compare four ways; ${best.name} errs least on them: by ${shown(100 * best.error)}% of the numbers' spread.`;
    const spectra = chart("Singular values of the table as each way completes it", ["number", "singular value"], "The steeper a curve falls, the lower the rank of the completed table.");
    const ways = make("table", {}, make("thead", {}, make("tr", {}, ...["Way", "Error on hidden numbers", "Effective rank"].map((text) => make("th", { scope: "col" }, text)))),
      make("tbody", {}, ...found.ways.map((way) => make("tr", {}, make("th", { scope: "row" }, way.name), make("td", {}, `${shown(100 * way.error)}%`), make("td", {}, shown(way.effective_rank))))));
    spectra.show({ last: 1, curves: found.ways.map((way) => ({ name: way.name.replace("least ", ""), x: way.singular_values.map((_, k) => k + 1), y: way.singular_values })) });
    spectra.set("y", true);
    byId("table-pictures").replaceChildren(make("div", { class: "pair" }, spectra.figure, ways), make("h3", {}, "The completed table"));
    byId("filled").hidden = false; byId("filled").textContent = found.filled;
  });
  byId("complete").addEventListener("click", () => { byId("table-pictures").replaceChildren(); byId("filled").hidden = true; complete(byId("table").value); });

  // Your checkpoint.
  const MOST_LAYERS = 300;  // that are drawn
  let name = "";
  const profile = job("checkpoint", "The weights are being measured ...", (found) => {
    const skipped = Object.entries(found.skipped), number = found.layers.length;
    byId("checkpoint-reading").textContent = `${name}: ${number} ${number === 1 ? "weight" : "weights"} measured${number > MOST_LAYERS ? `, of which the first ${MOST_LAYERS} are shown` : ""}; ${skipped.length} ${skipped.length === 1 ? "tensor has" : "tensors have"} no rank. In each picture, the singular values fall from left to right: blue of this weight, grey of a random matrix of its shape. A blue line far below the grey one is a low rank.`;
    byId("layers").replaceChildren(...found.layers.slice(0, MOST_LAYERS).map((layer) => {
      const svg = make("svg", { viewBox: "0 0 128 48", role: "img", "aria-label": `Spectrum of ${layer.name}` });
      for (const [values, stroke] of [[layer.random, "var(--soft)"], [layer.spectrum, "var(--a)"]]) if (values) svg.append(make("polyline", { class: "curve", stroke, points: values.map((v, k) => `${(k / Math.max(values.length - 1, 1)) * 126 + 1},${46 - 44 * v}`).join(" ") }));
      return make("div", { class: "layer" }, make("div", {}, make("strong", {}, layer.name), ` ${layer.shape.join(" x ")}: effective rank ${shown(layer.effective_rank)}, of a random matrix ${shown(layer.random_effective_rank)}`), svg);
    }), ...(skipped.length ? [make("details", {}, make("summary", {}, "Tensors that were not measured"), make("ul", {}, ...skipped.slice(0, MOST_LAYERS).map(([which, why]) => make("li", {}, `${which} ${why}`))))] : []));
  });
  const take = (file) => { name = file.name; byId("layers").replaceChildren(); profile(file); };
  byId("checkpoint").addEventListener("change", (event) => { const [file] = event.target.files; if (file) take(file); event.target.value = ""; });
  // A file that is dropped elsewhere would replace the page.
  for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
  byId("panel-checkpoint").addEventListener("drop", (event) => { if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]); });

  read(); build(); begin(); select(byId(`tab-${state.tab}`));
})();
