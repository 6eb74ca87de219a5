"use strict";
// Everything below adds to a page that is complete without it: definitions where a term is used, values under the
// pointer, curves that can be hidden, filters of the table, and a table of contents that follows.
(() => {
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  document.documentElement.classList.add("scripted");

  // Definitions
  const tip = document.getElementById("tip");
  let term = null;
  const hide = () => { tip.hidden = true; term?.removeAttribute("aria-describedby"); term = null; };
  const show = link => {
    if (term === link) return;
    hide();
    term = link;
    const name = document.getElementById(link.hash.slice(1));
    tip.replaceChildren();
    const strong = document.createElement("strong");
    strong.textContent = name.textContent;
    tip.append(strong, ": ", ...[...name.nextElementSibling.cloneNode(true).childNodes]);
    tip.hidden = false;
    link.setAttribute("aria-describedby", "tip");
    const box = link.getBoundingClientRect(), own = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - own.width - 8))}px`;
    const below = box.bottom + 6;
    tip.style.top = `${below + own.height < innerHeight ? below : Math.max(8, box.top - own.height - 6)}px`;
  };
  for (const link of all("a.term")) {
    let pressed = "";
    link.addEventListener("pointerdown", event => { pressed = term === link && event.pointerType !== "mouse" ? "shown" : ""; });
    link.addEventListener("mouseenter", () => show(link));
    link.addEventListener("focus", () => show(link));
    link.addEventListener("blur", hide);
    link.addEventListener("mouseleave", event => { if (event.relatedTarget !== tip) hide(); });
    link.addEventListener("click", event => {
      if (event.detail === 0) return;  // from the keyboard the link leads to the glossary
      event.preventDefault();
      if (pressed) hide(); else show(link);
    });
  }
  tip.addEventListener("mouseleave", hide);
  addEventListener("keydown", event => { if (event.key === "Escape") hide(); });
  addEventListener("scroll", hide, { passive: true });

  // Values of curves
  const text = value => {
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(1).replace("e+", "e");
    return String(Number(value.toPrecision(3)));
  };
  const forward = ([kind, , , threshold], value) => {
    if (kind === "log") return Math.log10(value);
    if (kind === "linear") return value;
    const near = 1 / 0.9, size = Math.abs(value);
    return Math.sign(value) * (size <= threshold ? near * size : threshold * (near + Math.log10(size / threshold)));
  };
  const back = ([kind, , , threshold], value) => {
    if (kind === "log") return 10 ** value;
    if (kind === "linear") return value;
    const near = 1 / 0.9, size = Math.abs(value);
    return Math.sign(value) * (size <= threshold * near ? size / near : threshold * 10 ** (size / threshold - near));
  };
  const invert = (scale, share) => {
    const low = forward(scale, scale[1]), high = forward(scale, scale[2]);
    const found = back(scale, low + (high - low) * share);
    // a linear axis shows no differences far below its length
    return scale[0] === "linear" && Math.abs(found) < 2e-3 * Math.abs(scale[2] - scale[1]) ? 0 : found;
  };
  const points = element => {
    const found = [];
    for (const path of all(":scope > path", element)) {
      const numbers = path.getAttribute("d").match(/-?[\d.]+/g).map(Number);
      const line = [];
      for (let k = 0; k + 1 < numbers.length; k += 2) line.push([numbers[k], numbers[k + 1]]);
      found.push(line);
    }
    const marks = all("use", element).map(use => [Number(use.getAttribute("x")), Number(use.getAttribute("y"))]);
    return { lines: found.filter(line => line.length > 1), marks };
  };
  const heights = ({ lines, marks }, x) => {
    const found = [];
    for (const line of lines) {
      for (let k = 1; k < line.length; k++) {
        const [a, b] = [line[k - 1], line[k]];
        if (a[0] !== b[0] && (a[0] - x) * (b[0] - x) <= 0) {
          found.push(a[1] + (b[1] - a[1]) * (x - a[0]) / (b[0] - a[0]));
          break;
        }
      }
    }
    if (!lines.length && marks.length) {
      const near = marks.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a);
      if (Math.abs(near[0] - x) < 8) found.push(near[1]);
    }
    return found;
  };
  const first = document.querySelector(".panel[data-frame]");
  const idle = at => {  // one figure says what can be done with all
    at.classList.add("idle");
    at.textContent = first.contains(at) ? "Point at a figure to read values; press a name to hide its curve." : "";
  };
  const prepare = panel => {
    const frame = JSON.parse(panel.dataset.frame), [left, top, right, bottom] = frame.box;
    const plot = panel.querySelector(".plot"), svg = plot.querySelector("svg"), view = svg.viewBox.baseVal;
    const rows = all(".legend li", panel).map(item => ({
      item, value: item.querySelector(".value"),
      drawn: item.dataset.ids.split(" ").map(id => document.getElementById(id)).filter(Boolean).map(points),
    })).filter(row => row.drawn.length);
    const at = panel.querySelector(".at"), cross = document.createElementNS("http://www.w3.org/2000/svg", "line");
    cross.classList.add("cross");
    const read = x => {
      const place = Math.max(left, Math.min(right, x));
      for (const [name, value] of Object.entries({ x1: place, x2: place, y1: top, y2: bottom })) cross.setAttribute(name, value);
      svg.append(cross);
      at.classList.remove("idle");
      at.textContent = `${panel.dataset.x || "position"}: ${text(invert(frame.x, (place - left) / (right - left)))}`;
      const said = [at.textContent];
      for (const row of rows) {
        const found = row.drawn.flatMap(drawn => heights(drawn, place)).filter(y => y >= top - 1 && y <= bottom + 1)
          .map(y => invert(frame.y, (bottom - y) / (bottom - top)));
        const low = text(Math.min(...found)), high = text(Math.max(...found));
        row.value.textContent = !found.length ? "" : low === high ? low : `${low} to ${high}`;
        if (found.length) said.push(`${row.item.querySelector(".name").textContent} ${row.value.textContent}`);
      }
      return said.join("; ");
    };
    const clear = () => { cross.remove(); idle(at); rows.forEach(row => { row.value.textContent = ""; }); };
    const place = event => {
      const box = svg.getBoundingClientRect();
      return view.x + (event.clientX - box.left) / box.width * view.width;
    };
    return { plot, read, clear, place, left, right };
  };
  for (const panel of all(".panel")) {
    for (const item of all(".legend li", panel)) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...item.childNodes);
      const value = document.createElement("span");
      value.className = "value";
      button.append(value);
      item.append(button);
      const shown = item.dataset.ids.split(" ").map(id => document.getElementById(id)).filter(Boolean);
      button.setAttribute("aria-pressed", "true");
      button.title = "Hide or show";
      button.disabled = !shown.length;
      button.addEventListener("click", () => {
        const on = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", String(on));
        shown.forEach(element => { element.style.display = on ? "" : "none"; });
      });
    }
    if (!panel.dataset.frame || !panel.querySelector(".legend")) continue;
    const plot = panel.querySelector(".plot"), at = document.createElement("span"), reader = document.createElement("input");
    at.className = "at";
    at.setAttribute("aria-hidden", "true");
    Object.assign(reader, { type: "range", min: 0, max: 100, value: 50, className: "reader" });
    reader.setAttribute("aria-label", `Read values of ${panel.querySelector(".panel-title")?.textContent ?? "this panel"} along ${panel.dataset.x}`);
    plot.after(reader, at);
    idle(at);
    plot.classList.add("readable");
    let ready = null;
    const get = () => ready ??= prepare(panel);
    plot.addEventListener("pointermove", event => get().read(get().place(event)));
    plot.addEventListener("pointerdown", event => get().read(get().place(event)));
    plot.addEventListener("pointerleave", event => { if (event.pointerType === "mouse") get().clear(); });
    const follow = () => {
      const { read, left, right } = get();
      reader.setAttribute("aria-valuetext", read(left + (right - left) * reader.value / 100));
    };
    reader.addEventListener("input", follow);
    reader.addEventListener("focus", follow);
    reader.addEventListener("blur", () => get().clear());
  }

  // Table of claims
  const filters = document.querySelector(".filters"), rows = all(".verdicts tbody tr");
  const filter = () => {
    const wanted = new FormData(filters);
    let count = 0;
    for (const row of rows) {
      const fits = ["kind", "result"].every(name => !wanted.get(name) || row.dataset[name] === wanted.get(name));
      row.hidden = !fits;
      row.style.display = fits ? "" : "none";
      count += fits;
    }
    filters.querySelector("output").textContent = `${count} of ${rows.length} claims`;
  };
  filters.hidden = false;
  filters.addEventListener("input", filter);
  filters.addEventListener("submit", event => event.preventDefault());
  filter();
  const reveal = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (target?.hidden) { filters.reset(); filter(); target.scrollIntoView(); }
  };
  addEventListener("hashchange", reveal);

  // Table of contents
  const menu = document.querySelector(".toc details"), where = menu.querySelector(".where"), wide = matchMedia("(min-width: 68rem)");
  const fold = () => { menu.open = wide.matches; };
  wide.addEventListener("change", fold);
  fold();
  const links = new Map(all(".toc a").map(link => [link.hash.slice(1), link]));
  const mark = id => {
    for (const [name, link] of links) {
      if (name === id) link.setAttribute("aria-current", "location"); else link.removeAttribute("aria-current");
    }
    all(".toc li").forEach(item => item.classList.toggle("here", !!item.querySelector("[aria-current]")));
    where.textContent = wide.matches || !links.get(id) ? "" : `: ${links.get(id).textContent}`;
  };
  for (const link of links.values()) link.addEventListener("click", () => { if (!wide.matches) menu.open = false; });
  const follow = () => {
    let now = "";
    for (const id of links.keys()) {
      const top = document.getElementById(id)?.getBoundingClientRect().top;
      if (top !== undefined && top < innerHeight / 3) now = id;
    }
    mark(now);
  };
  let waiting = false;
  addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; follow(); });
  }, { passive: true });
  follow();
})();
