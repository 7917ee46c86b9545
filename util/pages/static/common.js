const find = (selector, root = document) => root.querySelector(selector);
const findAll = (selector, root = document) => [...root.querySelectorAll(selector)];

function make(name, attributes = {}, ...content) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...content);
  return element;
}

// Small settings outlive a reload of the page in its tab; without storage they just do not.
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
    // Nothing depends on it.
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

// A number with four digits.
function readable(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size && (size < 1e-3 || size >= 1e6)) return Number(value.toPrecision(2)).toExponential();
  return String(Number(value.toPrecision(4)));
}

// Keys with these belong to the browser, and so do those that are typed into a field.
function isForPage(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return false;
  return !event.target.matches("input[type=search], select");
}
