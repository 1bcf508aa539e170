// Looks at a page as somebody does who cannot see it well. Gives the problems, each a line.
() => {
  const problems = [];
  const tell = (what, element) => problems.push(`${what}: ${element.outerHTML.slice(0, 160)}`);
  const seen = (element) => element.checkVisibility({ visibilityProperty: true });
  const named = (element) =>
    element.getAttribute("aria-label")?.trim() ||
    (element.getAttribute("aria-labelledby") && document.getElementById(element.getAttribute("aria-labelledby"))) ||
    element.textContent.trim();

  if (!document.documentElement.lang || !document.title.trim()) problems.push("the page has no language or no title");
  if (document.querySelectorAll("h1").length !== 1) problems.push("the page has not one h1");
  if (!document.querySelector("main")) problems.push("the page has no main");
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) problems.push(`an id is there twice: ${id.slice(0, 80)}`);
  let level = 1;
  for (const heading of document.querySelectorAll("h1, h2, h3, h4")) {
    const its = Number(heading.localName[1]);
    if (its > level + 1) tell("a heading skips a level", heading);
    level = its;
  }
  for (const field of document.querySelectorAll("input:not([type=hidden]), select, textarea")) {
    if (!field.labels.length && !field.getAttribute("aria-label")) tell("a field without a label", field);
  }
  for (const element of document.querySelectorAll("button, a[href], summary, nav, section, [role=region], [role=img]")) {
    if (!named(element)) tell("an element without a name", element);
  }
  for (const table of document.querySelectorAll("table")) {
    if (!table.caption && !table.getAttribute("aria-label")) tell("a table without a caption", table);
    if (!table.querySelector("th[scope]")) tell("a table without headings", table);
  }
  for (const box of document.querySelectorAll("main *, header *")) {
    const style = getComputedStyle(box);
    const scrolls = /(auto|scroll)/.test(style.overflowX + style.overflowY) && seen(box);
    const more = box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1;
    if (scrolls && more && box.tabIndex < 0 && !box.querySelector("a[href], button, input")) tell("a keyboard cannot scroll it", box);
  }

  // Contrast, as WCAG 2 counts it.
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const parsed = new Map();
  const rgba = (text) => {
    if (!parsed.has(text)) {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = text;
      canvas.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
      parsed.set(text, [r, g, b, a / 255]);
    }
    return parsed.get(text);
  };
  const over = ([r, g, b, a], [br, bg, bb]) => [r * a + br * (1 - a), g * a + bg * (1 - a), b * a + bb * (1 - a), 1];
  const ground = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
    return layers.reduceRight((below, layer) => over(layer, below), [255, 255, 255, 1]);
  };
  const light = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const judged = new Set();
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.nodeValue.trim() || judged.has(element) || !seen(element)) continue;
    judged.add(element);
    const style = getComputedStyle(element);
    const below = ground(element);
    const text = over(rgba(element.closest("svg") ? style.fill : style.color), below);
    const [bright, dark] = [light(text), light(below)].sort((a, b) => b - a);
    const contrast = (bright + 0.05) / (dark + 0.05);
    if (contrast < 4.5) tell(`a contrast of ${contrast.toFixed(2)}`, element);
  }
  return problems;
}
