// Zoom, shared by every paper on the page, and a caliper. Coordinates of a paper are millimetres.
(() => {
  const MM_PER_SECOND = 25, MM_PER_MILLIVOLT = 10, CLOSEST = 12;
  const view = {x: 0, y: 0, zoom: 1}; // left and top as fractions of a paper
  const papers = () => document.querySelectorAll("svg.ecg");
  const size = paper => [Number(paper.dataset.width), Number(paper.dataset.height)];

  function show() {
    const room = 1 - 1 / view.zoom;
    view.x = Math.min(Math.max(view.x, 0), room);
    view.y = Math.min(Math.max(view.y, 0), room);
    for (const paper of papers()) {
      const [width, height] = size(paper);
      const box = [view.x * width, view.y * height, width / view.zoom, height / view.zoom].join(" ");
      if (paper.getAttribute("viewBox") !== box) paper.setAttribute("viewBox", box);
    }
  }

  // The point (fx, fy) of the visible part, as fractions, stays where it is.
  function zoom(factor, fx = 0.5, fy = 0.5) {
    const zoomed = Math.min(Math.max(view.zoom * factor, 1), CLOSEST);
    view.x += fx * (1 / view.zoom - 1 / zoomed);
    view.y += fy * (1 / view.zoom - 1 / zoomed);
    view.zoom = zoomed;
    show();
  }

  function place(paper, event) {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(paper.getScreenCTM().inverse());
    return [point.x, point.y];
  }

  function element(name, parent, attributes) {
    const made = parent.appendChild(document.createElementNS("http://www.w3.org/2000/svg", name));
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  function measure(paper, [x0, y0], [x1, y1]) {
    paper.querySelector(".caliper")?.remove();
    const width = Math.abs(x1 - x0), height = Math.abs(y1 - y0);
    if (width < 0.5 && height < 0.5) return;
    const group = element("g", paper, {class: "caliper"});
    element("rect", group, {x: Math.min(x0, x1), y: Math.min(y0, y1), width, height});
    const seconds = width / MM_PER_SECOND;
    const rate = seconds > 0.15 ? ` (${Math.round(60 / seconds)} bpm)` : "";
    const font = 5 / view.zoom ** 0.8;
    const label = element("text", group, {"font-size": font, x: Math.min(x0, x1), y: Math.max(Math.min(y0, y1) - 1, font)});
    label.textContent = `${Math.round(1000 * seconds)} ms${rate}  ${(height / MM_PER_MILLIVOLT).toFixed(2)} mV`;
  }

  let drag = null;
  document.addEventListener("pointerdown", event => {
    const paper = event.target.closest?.("svg.ecg");
    if (!paper || event.button !== 0) return;
    event.preventDefault();
    drag = {paper, from: place(paper, event), moves: event.shiftKey, at: [event.clientX, event.clientY]};
  });
  document.addEventListener("pointermove", event => {
    if (!drag) return;
    if (!drag.moves) return measure(drag.paper, drag.from, place(drag.paper, event));
    const box = drag.paper.getBoundingClientRect();
    view.x -= (event.clientX - drag.at[0]) / box.width / view.zoom;
    view.y -= (event.clientY - drag.at[1]) / box.height / view.zoom;
    drag.at = [event.clientX, event.clientY];
    show();
  });
  document.addEventListener("pointerup", () => { drag = null; });
  document.addEventListener("wheel", event => {
    const paper = event.target.closest?.("svg.ecg");
    if (!paper || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    const box = paper.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY / 300), (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  }, {passive: false});
  document.addEventListener("click", event => {
    const factor = event.target.dataset?.zoom;
    if (factor) zoom(Number(factor), 0, 0);
  });
  // A paper that is drawn anew keeps the view.
  new MutationObserver(show).observe(document, {childList: true, subtree: true});
})();
