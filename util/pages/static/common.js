const find = (selector, root = document) => root.querySelector(selector);
const findAll = (selector, root = document) => [...root.querySelectorAll(selector)];

function make(name, attributes = {}, ...content) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...content);
  return element;
}

const FACTS = JSON.parse(document.body.dataset.facts);

// Settings survive a reload of the page in its tab, if the browser allows storage.
function recall(name) {
  try {
    return JSON.parse(sessionStorage.getItem(location.pathname + " " + name));
  } catch {
    return null;
  }
}

function remember(name, value) {
  try {
    sessionStorage.setItem(location.pathname + " " + name, JSON.stringify(value));
  } catch {
    // The page works without it.
  }
}

function makeButton(text, label, action) {
  const element = make("button", { type: "button", "aria-label": label, title: label }, text);
  element.addEventListener("click", action);
  return element;
}

function counted(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

// A number with four significant digits.
function readable(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size && (size < 1e-3 || size >= 1e6)) return Number(value.toPrecision(2)).toExponential();
  return String(Number(value.toPrecision(4)));
}

function arrow(metric) {
  return { true: " ↑", false: " ↓" }[FACTS.higherIsBetter[metric]] ?? "";
}

// Keys with a modifier belong to the browser, those typed into a field to the field.
function isForPage(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return false;
  return !event.target.matches("input[type=search], select");
}
