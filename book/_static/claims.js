// The ledger's filter, and the statements that a reader answers. Without this file both are plain lists.
(() => {
  const make = (tag, given = {}, ...inside) => {
    const made = Object.assign(document.createElement(tag), given);
    made.append(...inside);
    return made;
  };

  // ---------------------------------------------------------------- the filter
  // Width, case, accents, punctuation, the blanks beside Chinese characters and -ize make no difference.
  const plain = (text) =>
    text.normalize("NFKD").toLowerCase().replace(/\p{M}/gu, "")
      .replace(/\bkd\b|knowledge distillation/g, "distillation").replace(/iz(?=[aei])/g, "is")
      .replace(/(\d),(?=\d{3})/g, "$1").replace(/(\d)\.(?=\d)/g, "$1\u0001")
      .replace(/[^\p{L}\p{N}%\u0001]+/gu, " ").replaceAll("\u0001", ".")
      .replace(/(?<=\p{Script=Han}) | (?=\p{Script=Han})/gu, "").trim();

  // A whole sentence is cut into pairs of Chinese characters, numbers, and the beginnings of its longer words, so that
  // "interpretability" finds "interpret".
  const pieces = (text) => [
    ...new Set([
      ...[...text.matchAll(/(?=(\p{Script=Han}{2}))/gu)].map((found) => found[1]),
      ...(text.match(/\d[\d.]*%|[a-z\d.-]{4,}/g) || []).map((word) => word.slice(0, 7)),
    ]),
  ];

  const filter = (list) => {
    const rows = [...list.querySelectorAll(":scope > .claim")].map((row) => ({
      row,
      id: row.id,
      text: plain([...row.querySelectorAll(".claim-text, .claim-truth, .claim-keys")].map((e) => e.textContent).join(" ")),
    }));
    // The rows nearest to a query that none holds: a rare piece says more than a common one.
    const nearest = (query) => {
      const points = new Map(rows.map((row) => [row, 0]));
      for (const piece of pieces(query)) {
        const holds = rows.filter((row) => row.text.includes(piece));
        for (const row of holds) points.set(row, points.get(row) + 1 / holds.length);
      }
      const best = [...points].filter(([, sum]) => sum > 0).sort((a, b) => b[1] - a[1]);
      return best.filter(([, sum]) => sum >= best[0][1] / 2).slice(0, 5).map(([row]) => row);
    };
    const search = (query) => {
      const id = query.match(/^c ?0*(\d{1,3})$/);
      if (id) return rows.filter((row) => row.id === `c${id[1].padStart(2, "0")}`);
      const words = query.split(" ");
      return rows.filter((row) => words.every((word) => row.text.includes(word)));
    };

    const box = make("input", { type: "search", id: "claim-words", autocomplete: "off", placeholder: "温度, soft label, C46" });
    const choice = (id, all, options) =>
      make("select", { id }, new Option(all, ""), ...options.map(([text, value]) => new Option(text, value)));
    const kinds = (start, show) =>
      [...new Set(rows.flatMap(({ row }) => [...row.classList].filter((name) => name.startsWith(start))))]
        .sort().map((name) => [show(name.slice(start.length)), name]);
    const verdict = choice("claim-verdict", "any", kinds("verdict-", (name) => name.replace("-", " ")));
    const article = choice("claim-article", "any", kinds("article-", (name) => name));
    const said = make("p", { className: "claim-count" });
    said.setAttribute("role", "status");
    const label = (text, field) => make("label", { htmlFor: field.id }, text, field);
    const form = make("form", { className: "claim-filter" },
      label("Words of a claim, Chinese or English ", box), label("Verdict ", verdict), label("Article ", article),
      make("button", { type: "reset", textContent: "All claims" }));
    form.setAttribute("role", "search");
    form.setAttribute("aria-label", "Claims");

    const show = () => {
      const query = plain(box.value);
      let found = query ? search(query) : rows;
      const near = !found.length;
      if (near) found = nearest(query);
      const wanted = [verdict.value, article.value].filter(Boolean);
      found = found.filter(({ row }) => wanted.every((name) => row.classList.contains(name)));
      for (const { row } of rows) row.hidden = true;
      for (const { row } of found) row.hidden = false;
      said.textContent = near && found.length
        ? `No claim holds all of this. Nearest: ${found.length} of ${rows.length}.`
        : `${found.length} of ${rows.length} claims.${found.length ? "" : " Try fewer words, or another choice."}`;
    };
    const open = () => {
      const row = rows.find(({ id }) => id === location.hash.slice(1).toLowerCase());
      if (!row) return;
      form.reset();
      setTimeout(() => { // by then all rows are back
        row.row.tabIndex = -1;
        row.row.focus({ preventScroll: true });
        row.row.scrollIntoView({ block: "center" });
      });
    };
    form.addEventListener("input", show);
    form.addEventListener("reset", () => setTimeout(show));
    form.addEventListener("submit", (event) => event.preventDefault());
    list.before(form, said);
    show();
    addEventListener("hashchange", open);
    addEventListener("load", open); // later than the browser's own jump, which takes the focus away
  };

  // ---------------------------------------------------------------- the statements
  const KEY = "kdcourse.first-answers";
  const kept = () => {
    try { return JSON.parse(localStorage.getItem(KEY)) || {}; } catch { return null; } // null: nothing can be kept
  };
  const keep = (answers) => {
    try { localStorage.setItem(KEY, JSON.stringify(answers)); return true; } catch { return false; }
  };

  const ask = (list) => {
    const first = list.classList.contains("asked");
    const items = [...list.children];
    const answers = (first && kept()) || {};
    const said = make("p", { className: "statements-said" });
    said.setAttribute("role", "status");
    const each = (act) => items.forEach((item) => act(item, item.id.slice("statement-".length)));
    const right = (item, answer) => item.classList.contains(`answer-${answer}`);
    const count = () => `${Object.keys(answers).length} of ${items.length} answered.`;
    const tell = () => {
      if (!first) said.textContent = count();
      else said.textContent = count() + (keep(answers)
        ? " Kept in this browser, and nowhere else."
        : " This browser keeps nothing: the second round will have your score, and not your gain.");
    };

    each((item, id) => {
      const field = make("fieldset", {}, make("legend", { className: "sr-only", textContent: item.firstElementChild.textContent }));
      for (const answer of ["true", "false"]) {
        const radio = make("input", { type: "radio", name: `answer-${id}`, value: answer, checked: answers[id] === answer });
        radio.addEventListener("change", () => { answers[id] = answer; tell(); });
        field.append(make("label", {}, radio, ` ${answer}`));
      }
      item.firstElementChild.after(field);
      const fold = item.querySelector("details");
      if (fold) fold.hidden = true;
    });

    const again = make("button", { type: "button", textContent: first ? "Forget my answers" : "Show the truth" });
    again.addEventListener("click", () => {
      if (first) {
        for (const id of Object.keys(answers)) delete answers[id];
        list.querySelectorAll("input").forEach((radio) => { radio.checked = false; });
        tell();
        return;
      }
      const before = kept() || {};
      let now = 0, then = 0, known = 0;
      each((item, id) => {
        const fold = item.querySelector("details");
        const good = right(item, answers[id]);
        now += good;
        then += right(item, before[id]);
        known += id in before;
        item.dataset.mark = good ? "right" : answers[id] ? "wrong" : "not answered";
        fold.hidden = false;
        fold.open = true;
        fold.querySelector("summary").textContent = `You: ${item.dataset.mark}`
          + (id in before ? `, before the book ${right(item, before[id]) ? "right" : "wrong"}` : "");
      });
      const gain = now - then;
      said.textContent = `${now} of ${items.length} right. ` + (known
        ? `Before the book ${then}: ${gain > 0 ? `a gain of ${gain}` : gain ? `a loss of ${-gain}` : "no change"}.`
        : "Answers from before the book are not in this browser, so there is no gain to show.");
    });
    list.after(said, again);
    tell();
  };

  for (const words of document.querySelectorAll(".claim-keys")) words.lang = "zh"; // for a voice that reads them
  document.querySelectorAll("ul.ledger").forEach(filter);
  document.querySelectorAll("ol.statements").forEach(ask);
})();
