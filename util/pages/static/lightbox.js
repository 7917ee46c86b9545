// Pictures in full size, one at a time or two of a row with a divider between them.
//
// Left and right step through all shown pictures in the order of the page, up and down through the pictures
// with the same key: the same label (and sample) in the row or epoch above or below. With two pictures, left
// and right move the divider.

const STEPS = {
  ArrowLeft: { sign: "←", label: "Previous picture (left arrow)" },
  ArrowUp: { sign: "↑", label: "Same picture in the row above (up arrow)" },
  ArrowDown: { sign: "↓", label: "Same picture in the row below (down arrow)" },
  ArrowRight: { sign: "→", label: "Next picture (right arrow)" },
};

const isSideways = (key) => key === "ArrowLeft" || key === "ArrowRight";
const picturesOf = (element) => findAll("a.picture", element);
const rowOf = (link) => picturesOf(link.closest(".sample"));
const labelOf = (link) => find("figcaption", link.closest("figure")).textContent;
const addressOf = (link) => link.getAttribute("href").split("?")[0];

// Who stands beside, above and below whom.
function connect(links) {
  const neighbours = new Map(links.map((link, index) => [link, { index }]));
  const above = new Map();
  links.forEach((link, index) => {
    const own = neighbours.get(link);
    own.ArrowLeft = links[index - 1];
    own.ArrowRight = links[index + 1];
    own.ArrowUp = above.get(link.dataset.key);
    if (own.ArrowUp) neighbours.get(own.ArrowUp).ArrowDown = link;
    above.set(link.dataset.key, link);
  });
  return { links, neighbours };
}

// `list` returns all pictures in their present order, `reveal` brings one into the page if it is not there.
function makeLightbox(list, reveal) {
  let pictures = null;
  let current = null;
  let comparing = false;

  const view = makeView();
  const caption = make("p", { class: "caption", "aria-live": "polite" });
  const place = make("p", { class: "place" });
  const closing = makeButton("✕", "Close (Esc)", () => dialog.close());
  const compare = makeButton("Compare", "Compare two pictures of the row (C)", () => setComparing(!comparing));
  const pixels = makeButton("Pixels", "Show sharp pixels (P)", () => toggle(pixels, "pixels"));
  const actual = makeButton("100 %", "Show the picture's own size (A)", () => toggle(actual, "actual"));
  const steps = Object.entries(STEPS).map(([key, { sign, label }]) => {
    const element = makeButton(sign, label, () => step(key));
    element.classList.toggle("sideways", isSideways(key));
    return [key, element];
  });
  const dialog = make(
    "dialog",
    { "aria-label": "Enlarged picture" },
    make("div", { class: "bar" }, caption, place, closing),
    view.stage,
    make(
      "div",
      { class: "bar steps" },
      ...steps.map(([, element]) => element),
      ...[compare, ...view.choices, pixels, actual],
    ),
  );
  document.body.append(dialog);

  function toggle(button, name) {
    button.setAttribute("aria-pressed", view.stage.classList.toggle(name));
  }

  function show(link) {
    current = link;
    const row = rowOf(link);
    compare.disabled = row.length < 2;
    const two = comparing && row.length > 1;
    dialog.classList.toggle("comparing", two);
    compare.setAttribute("aria-pressed", two);
    caption.textContent = two ? view.showTwo(row) : view.showOne(link);
    const own = pictures.neighbours.get(link);
    place.textContent = `${own.index + 1} / ${pictures.links.length}`;
    for (const [key, element] of steps) {
      element.disabled = !own[key];
      if (own[key]) new Image().src = own[key].href; // so that the next step is immediate
    }
    if (!dialog.open) dialog.showModal();
    setHash("#open=" + addressOf(link));
  }

  function open(link, withTwo) {
    pictures = connect(list());
    comparing = withTwo;
    // The viewer of epochs shows pictures that stand further down in their epochs.
    if (!pictures.neighbours.has(link)) {
      link = pictures.links.find((other) => addressOf(other) === addressOf(link));
    }
    if (link) show(link);
    if (link && withTwo) view.divider.focus();
  }

  function setComparing(value) {
    comparing = value;
    show(current);
    if (value) view.divider.focus();
  }

  function step(key) {
    const next = pictures.neighbours.get(current)[key];
    if (next) show(next);
  }

  dialog.addEventListener("keydown", (event) => {
    if (!isForPage(event)) return;
    if (event.key in STEPS) {
      event.preventDefault();
      if (!dialog.classList.contains("comparing") || !isSideways(event.key)) step(event.key);
      else view.moveDivider((event.key === "ArrowLeft" ? -1 : 1) * (event.shiftKey ? 10 : 2));
    } else if (event.key === "p") toggle(pixels, "pixels");
    else if (event.key === "a") toggle(actual, "actual");
    else if (event.key === "c" && !compare.disabled) setComparing(!comparing);
  });
  dialog.addEventListener("close", () => {
    setHash("");
    goTo(current, reveal);
  });
  view.stage.addEventListener("click", (event) => event.target === view.stage && dialog.close());
  view.changed = () => show(current);
  onSwipe(view.stage, (key) => {
    if (view.stage.classList.contains("actual")) return; // it scrolls
    if (!dialog.classList.contains("comparing") || !isSideways(key)) step(key);
  });

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.picture");
    if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    open(link, false);
  });
  onArrows(dialog, list, reveal);
  function openAddressed() {
    const link = location.hash && list().find((link) => location.hash === "#open=" + addressOf(link));
    if (link) open(link, false);
  }
  addEventListener("hashchange", openAddressed);
  return { dialog, open, openAddressed };
}

// The part between the bars: a picture, a second one over it and the divider, which is an input, so that
// mouse, touch and keys move it.
function makeView() {
  const one = make("img");
  const other = make("img", { class: "other" });
  const range = { type: "range", min: 0, max: 100, step: 0.1, value: 50 };
  const divider = make("input", { ...range, "aria-label": "Divider" });
  const frame = make("div", { class: "frame" }, one, other, divider);
  const choices = ["Left picture", "Right picture"].map((label) => {
    return make("select", { "aria-label": label, title: label });
  });
  const stage = make("div", { class: "stage" }, frame);
  const view = { stage, choices, divider, showOne, showTwo, moveDivider, changed: null };

  function put(image, link) {
    const thumbnail = find("img", link);
    if (image === one) {
      const ratio = thumbnail.getAttribute("width") / thumbnail.getAttribute("height");
      frame.style.setProperty("--ratio", ratio);
    }
    if (thumbnail.src !== link.href && image.src !== link.href) {
      image.removeAttribute("src"); // or the last picture would stay until a large one is there
      image.style.backgroundImage = `url("${thumbnail.src}")`;
    } else if (thumbnail.src === link.href) {
      image.style.backgroundImage = "";
    }
    image.src = link.href;
    image.alt = thumbnail.alt;
  }

  function showOne(link) {
    put(one, link);
    return one.alt;
  }

  function showTwo(row) {
    const chosen = choosePair(row);
    put(one, row[chosen[0]]);
    put(other, row[chosen[1]]);
    choices.forEach((choice, side) => {
      choice.replaceChildren(...row.map((link, index) => make("option", { value: index }, labelOf(link))));
      choice.value = chosen[side];
    });
    return `${one.alt} | ${labelOf(row[chosen[1]])}`;
  }

  function moveDivider(percent) {
    divider.value = divider.valueAsNumber + percent;
    follow();
  }

  function follow() {
    frame.style.setProperty("--at", `${divider.value}%`);
  }

  divider.addEventListener("input", follow);
  one.addEventListener("load", () => frame.style.setProperty("--natural", `${one.naturalWidth}px`));
  for (const choice of choices) {
    choice.addEventListener("change", () => {
      remember("pair", choices.map((choice) => Number(choice.value)));
      view.changed();
    });
  }
  follow();
  return view;
}

// Which two pictures of a row are compared: those chosen before, or else the first and what was made of it.
function choosePair(row) {
  const chosen = recall("pair");
  if (chosen?.every((index) => index < row.length)) return chosen;
  const made = row.findIndex((link, index) => index && link.dataset.key.startsWith("fake"));
  return [0, Math.max(1, made)];
}

// From a picture that has the focus, arrows lead to its neighbours as they do when it is enlarged.
function onArrows(dialog, list, reveal) {
  let pictures = null;
  document.addEventListener("keydown", (event) => {
    const link = document.activeElement;
    if (dialog.open || !(event.key in STEPS) || !isForPage(event)) return;
    if (!link.matches("#content a.picture")) return;
    if (!event.repeat) pictures = null; // rows may have been sorted since
    pictures ??= connect(list());
    event.preventDefault();
    const next = pictures.neighbours.get(link)?.[event.key];
    if (next) goTo(next, reveal);
  });
}

function goTo(link, reveal) {
  reveal(link);
  link.focus({ preventScroll: true });
  link.scrollIntoView({ block: "nearest" });
}

function setHash(hash) {
  history.replaceState(null, "", hash || location.pathname + location.search);
}

function onSwipe(element, step) {
  let start = null;
  element.addEventListener("touchstart", (event) => {
    start = event.touches.length === 1 ? event.touches[0] : null;
  });
  element.addEventListener("touchend", (event) => {
    if (!start) return;
    const right = event.changedTouches[0].clientX - start.clientX;
    const down = event.changedTouches[0].clientY - start.clientY;
    start = null;
    if (Math.max(Math.abs(right), Math.abs(down)) < 40) return;
    // The picture follows the finger: a swipe to the left brings what is on the right.
    if (Math.abs(right) > Math.abs(down)) step(right < 0 ? "ArrowRight" : "ArrowLeft");
    else step(down < 0 ? "ArrowDown" : "ArrowUp");
  });
}
