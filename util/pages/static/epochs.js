// A slider that shows the fixed samples as they were after any epoch.

const AHEAD = 8; // epochs on both sides that are preloaded, so that dragging shows them at once

function makeEpochViewer(panel, newestFirst) {
  const sections = [...newestFirst].reverse();
  const images = sections.map(
    (section) => new Map(findAll("a.image", section).map((link) => [link.dataset.key, link])),
  );
  const last = sections.length - 1;
  const kept = sections.findIndex((section) => section.dataset.epoch === recall("epoch"));
  const slider = make("input", { type: "range", min: 0, max: last, step: 1, id: "epoch-slider" });
  const shown = make("output", { for: "epoch-slider" });
  const samples = find(".samples", sections[last]).cloneNode(true);
  const fetched = new Set();
  slider.value = kept < 0 ? last : kept;
  const label = make("label", { for: "epoch-slider" }, "Epoch");
  panel.append(make("div", { class: "slider" }, label, slider, shown), samples);
  panel.hidden = false;
  slider.addEventListener("input", show);
  show();

  function show() {
    const index = slider.valueAsNumber;
    const { epoch } = sections[index].dataset;
    shown.textContent = `${epoch} of ${sections[last].dataset.epoch}`;
    slider.setAttribute("aria-valuetext", `epoch ${epoch}`);
    // After a reload the newest epoch is replaced by a newer one; any other stays.
    remember("epoch", index === last ? null : epoch);
    for (const link of findAll("a.image", samples)) {
      const source = images[index].get(link.dataset.key);
      link.closest("figure").classList.toggle("absent", !source);
      if (source) put(link, source);
    }
  }

  function put(link, source) {
    const [image, other] = [find("img", link), find("img", source)];
    link.href = source.getAttribute("href");
    image.loading = "eager";
    image.src = other.getAttribute("src");
    image.alt = other.alt;
  }

  function fetchAround() {
    const index = slider.valueAsNumber;
    for (const links of images.slice(Math.max(0, index - AHEAD), index + AHEAD + 1)) {
      for (const link of links.values()) {
        if (fetched.has(link)) continue;
        fetched.add(link);
        new Image().src = find("img", link).src;
      }
    }
  }

  // Nothing is fetched before the slider is used.
  for (const event of ["pointerenter", "focus", "input"]) slider.addEventListener(event, fetchAround);
}
