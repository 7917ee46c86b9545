// Images in full size, one at a time, or two of a row with a divider between them.
//
// The left and right arrow keys step through all shown images in the order of the page, up and down through
// images with the same key: the same label (and sample) in the row or epoch above or below. With two images,
// left and right move the divider.

const STEPS = {
  ArrowLeft: { sign: "←", label: "Previous image (left arrow)" },
  ArrowUp: { sign: "↑", label: "Same image in the row above (up arrow)" },
  ArrowDown: { sign: "↓", label: "Same image in the row below (down arrow)" },
  ArrowRight: { sign: "→", label: "Next image (right arrow)" },
};

const isSideways = (key) => key === "ArrowLeft" || key === "ArrowRight";
const imagesOf = (element) => findAll("a.image", element);
const rowOf = (link) => imagesOf(link.closest(".sample"));
const keyOf = (link) => link.dataset.key.replace(/ \d+$/, ""); // without the sample's number
const labelOf = (link) => find("figcaption", link.closest("figure")).textContent;
const addressOf = (link) => link.getAttribute("href").split("?")[0];

// Links each image to those before, after, above and below it.
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

// `list` returns the links of all images in their current order, `reveal` brings one into the document.
function makeLightbox(list, reveal) {
  let images = null;
  let current = null;
  let comparing = false;

  const view = makeView();
  const caption = make("p", { class: "caption", "aria-live": "polite" });
  const place = make("p", { class: "place" });
  const closing = makeButton("✕", "Close (Esc)", () => dialog.close());
  const compare = makeButton("Compare", "Compare two images of the row (C)", () => setComparing(!comparing));
  const pixels = makeButton("Pixels", "Show sharp pixels (P)", () => toggle(pixels, "pixels"));
  const actual = makeButton("100 %", "Show the image's own size (A)", () => toggle(actual, "actual"));
  const steps = Object.entries(STEPS).map(([key, { sign, label }]) => {
    const element = makeButton(sign, label, () => step(key));
    element.classList.toggle("sideways", isSideways(key));
    return [key, element];
  });
  const dialog = make(
    "dialog",
    { "aria-label": "Enlarged image" },
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
    const own = images.neighbours.get(link);
    place.textContent = `${own.index + 1} / ${images.links.length}`;
    for (const [key, element] of steps) {
      element.disabled = !own[key];
      if (own[key]) new Image().src = own[key].href; // preloaded, so that the next step is immediate
    }
    if (!dialog.open) dialog.showModal();
    setHash("#open=" + addressOf(link));
  }

  function open(link, withTwo) {
    images = connect(list());
    comparing = withTwo;
    // The epoch viewer shows copies of images that are further down in the sections of their epochs.
    if (!images.neighbours.has(link)) {
      link = images.links.find((other) => addressOf(other) === addressOf(link));
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
    const next = images.neighbours.get(current)[key];
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
    if (view.stage.classList.contains("actual")) return; // swiping scrolls
    if (!dialog.classList.contains("comparing") || !isSideways(key)) step(key);
  });

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.image");
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

// The part between the bars: an image, a second one on top of it, and the divider, a range input that mouse,
// touch and keys move.
function makeView() {
  const one = make("img");
  const other = make("img", { class: "other" });
  const range = { type: "range", min: 0, max: 100, step: 0.1, value: 50 };
  const divider = make("input", { ...range, "aria-label": "Divider" });
  const frame = make("div", { class: "frame" }, one, other, divider);
  const choices = ["Left image", "Right image"].map((label) => {
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
      image.removeAttribute("src"); // otherwise the previous image stays until a large one is loaded
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
    const labels = row.map(labelOf);
    const chosen = choosePair(row.map(keyOf));
    put(one, row[chosen[0]]);
    put(other, row[chosen[1]]);
    choices.forEach((choice, side) => {
      choice.replaceChildren(...row.map((link, index) => make("option", { value: keyOf(link) }, labels[index])));
      choice.value = keyOf(row[chosen[side]]);
    });
    return `${one.alt} | ${labels[chosen[1]]}`;
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
      remember("pair", choices.map((choice) => choice.value));
      view.changed();
    });
  }
  follow();
  return view;
}

// Returns the indices of the two images of a row to compare: those chosen before, or else the result beside
// its ground truth or, without one, beside its input.
function choosePair(keys) {
  const chosen = recall("pair")?.map((key) => keys.indexOf(key));
  if (chosen?.every((index) => index >= 0)) return chosen;
  const fake = Math.max(0, keys.findIndex((key) => key.startsWith("fake")));
  // In unpaired data real_B is the input of the other direction.
  const unpaired = FACTS.paired === null ? keys.some((key) => key.startsWith("fake_A")) : !FACTS.paired;
  const paired = !unpaired || keys[fake].startsWith("fake_B_rgb");
  const truth = paired ? keys.indexOf(keys[fake].split(":")[0].replace("fake", "real")) : -1;
  const input = keys.findIndex((key) => key.startsWith("real"));
  const beside = [truth, input].find((index) => index >= 0 && index !== fake);
  return [fake, beside ?? (fake ? 0 : 1)];
}

// Arrow keys move the focus from an image to its neighbours, as they step when it is enlarged.
function onArrows(dialog, list, reveal) {
  let images = null;
  document.addEventListener("keydown", (event) => {
    const link = document.activeElement;
    if (dialog.open || !(event.key in STEPS) || !isForPage(event)) return;
    if (!link.matches("#content a.image")) return;
    if (!event.repeat) images = null; // rows may have been sorted since
    images ??= connect(list());
    event.preventDefault();
    const next = images.neighbours.get(link)?.[event.key];
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
    // The image follows the finger: a swipe to the left shows the image on the right.
    if (Math.abs(right) > Math.abs(down)) step(right < 0 ? "ArrowRight" : "ArrowLeft");
    else step(down < 0 ? "ArrowDown" : "ArrowUp");
  });
}
