// Keeps a page up with the mesh. Each event brings the html of one part; only what differs is changed, so that the
// focus, a selection, what is open and where it is scrolled to stay as they are.
"use strict";
(() => {
  const SILENT_MS = 30000; // the dashboard says at least every 10 s that it is there
  const RETRY_MS = 15000; // after a refusal
  const address = document.body.dataset.events;
  const news = document.getElementById("news");
  let source = null;
  let retry; // the timer of the next attempt after a refusal
  let heard = Date.now();

  const keyOf = (node) => (node.nodeType === Node.ELEMENT_NODE ? node.id || node.dataset.key || "" : "");

  const sameKind = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);

  function morphAttributes(from, to) {
    for (const { name, value } of [...to.attributes]) {
      if (!(name === "open" && from.localName === "details") && from.getAttribute(name) !== value) {
        from.setAttribute(name, value);
      }
    }
    for (const { name } of [...from.attributes]) {
      if (!to.hasAttribute(name) && !(name === "open" && from.localName === "details")) from.removeAttribute(name);
    }
  }

  function morphChildren(from, to) {
    const children = [...to.childNodes];
    const wantedKeys = new Set(children.map(keyOf).filter(Boolean));
    const keyed = new Map(); // a key may be there more than once
    for (const child of from.childNodes) {
      const key = keyOf(child);
      if (key) keyed.set(key, [...(keyed.get(key) ?? []), child]);
    }
    let at = from.firstChild;
    for (const wanted of children) {
      const key = keyOf(wanted);
      let found = at;
      if (key) {
        found = keyed.get(key)?.shift() ?? null;
        // What has left before it is removed: were this node moved instead, it would lose the focus and a selection.
        while (found && at && at !== found && !wantedKeys.has(keyOf(at))) at = removed(at);
      } else {
        while (found && keyOf(found)) found = found.nextSibling;
      }
      if (found && sameKind(found, wanted)) {
        if (found !== at) from.insertBefore(found, at);
        else at = at.nextSibling;
        morph(found, wanted);
      } else {
        from.insertBefore(document.importNode(wanted, true), at);
      }
    }
    while (at) at = removed(at);
  }

  // Removes a node; gives the next one.
  function removed(node) {
    const next = node.nextSibling;
    node.remove();
    return next;
  }

  function morph(from, to) {
    if (from.nodeType !== Node.ELEMENT_NODE) {
      if (from.nodeValue !== to.nodeValue) from.nodeValue = to.nodeValue;
      return;
    }
    if (from.isEqualNode(to)) return;
    morphAttributes(from, to);
    // What somebody is typing or choosing stays.
    if (from === document.activeElement && /^(input|select|textarea)$/.test(from.localName)) return;
    morphChildren(from, to);
  }

  function take(event) {
    heard = Date.now();
    const { part, html } = JSON.parse(event.data);
    const place = document.querySelector(`[data-part="${CSS.escape(part)}"]`);
    if (!place) {
      location.reload(); // the page was made while the server was away
      return;
    }
    const made = new DOMParser().parseFromString(`<div>${html}</div>`, "text/html").body.firstElementChild;
    morphChildren(place, made);
    if (part === "news") document.body.classList.toggle("stale", Boolean(place.querySelector(".outage")));
    document.dispatchEvent(new CustomEvent("part", { detail: part }));
  }

  function tell(text, link) {
    const line = document.createElement("p");
    line.className = "outage";
    line.append(text);
    if (link) {
      const anchor = document.createElement("a");
      anchor.href = location.href;
      anchor.textContent = link;
      line.append(" ", anchor);
    }
    if (news.textContent.trim() !== line.textContent) news.replaceChildren(line);
    document.body.classList.add("stale");
  }

  function sinceHeard() {
    return new Date(heard).toISOString().slice(11, 19);
  }

  function listen() {
    leave(); // there is one stream, and one timer at most
    const opened = new EventSource(address);
    source = opened;
    opened.addEventListener("part", take);
    opened.addEventListener("alive", () => (heard = Date.now()));
    opened.onerror = () => {
      if (opened.readyState === EventSource.CLOSED) {
        // It was refused: the session is over, or there is no room.
        tell(`No news since ${sinceHeard()} UTC: the dashboard does not go on with this page.`, "Load it again");
        leave();
        if (!document.hidden) retry = setTimeout(listen, RETRY_MS);
      } else {
        tell(`No news since ${sinceHeard()} UTC: the dashboard does not answer. It goes on by itself.`);
      }
    };
  }

  function leave() {
    clearTimeout(retry);
    if (source) source.close();
    source = null;
  }

  if (address) {
    listen();
    setInterval(() => {
      if (source && source.readyState === EventSource.OPEN && Date.now() - heard > SILENT_MS) listen();
    }, 5000);
    // A page that nobody sees costs nothing.
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) leave();
      else if (!source) listen();
    });
    window.addEventListener("pagehide", leave);
    // Whoever goes back to a page may get it as it was left.
    window.addEventListener("pageshow", (event) => {
      if (event.persisted && !source) listen();
    });
  }
})();
