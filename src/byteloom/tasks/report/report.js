// The hex view: show the token under the pointer in words, and outline its other occurrences.
(() => {
  const view = document.querySelector(".hexview"), line = view.querySelector("output");
  const tokens = new Map();
  for (const piece of view.querySelectorAll("[title]")) {
    if (!tokens.has(piece.title)) tokens.set(piece.title, []);
    tokens.get(piece.title).push(piece);
  }
  let shown = [];
  const show = (event) => {
    const title = event.target.title;
    if (!title) return;
    shown.forEach((piece) => piece.classList.remove("on"));
    shown = tokens.get(title);
    shown.forEach((piece) => piece.classList.add("on"));
    line.textContent = title;
  };
  line.textContent = "point at a token";
  view.addEventListener("pointerover", show);
  view.addEventListener("click", show);
})();
