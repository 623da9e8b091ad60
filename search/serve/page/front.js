"use strict";
// The live panel's front, and the buttons that pin one of its variants.

const SVG = "http://www.w3.org/2000/svg";

function shape(name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [attribute, value] of Object.entries(attributes)) node.setAttribute(attribute, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function drawFront(fleet) {
  const box = { left: 38, right: 308, top: 12, bottom: 168 };
  const points = fleet.variants.map((v) => ({ x: v.latency_ms, y: v.quality, ...v }));
  const range = (values) => {
    const low = Math.min(...values), high = Math.max(...values), room = (high - low || Math.abs(high) || 1) * 0.08;
    return [low - room, high + room];
  };
  const [left, right] = range(points.map((p) => p.x));
  const [low, high] = range(points.map((p) => p.y));
  const x = (value) => box.left + ((value - left) / (right - left)) * (box.right - box.left);
  const y = (value) => box.bottom - ((value - low) / (high - low)) * (box.bottom - box.top);
  const parts = [
    shape("title", { id: "front-title" }, `The front: ${points.length} variants, ${fleet.serving} serves`),
    shape("line", { class: "axis", x1: box.left, y1: box.bottom, x2: box.right, y2: box.bottom }),
    shape("line", { class: "axis", x1: box.left, y1: box.top, x2: box.left, y2: box.bottom }),
    shape("text", { x: box.right, y: 194, "text-anchor": "end" }, "ms a call"),
    shape("text", { x: 4, y: 10 }, fleet.metric || "quality"),
    ...[points[0], points[points.length - 1]].map((p) => shape("text", { x: 4, y: y(p.y) + 4 }, p.y.toPrecision(3))),
    shape("polyline", { class: "line", points: points.map((p) => `${x(p.x)},${y(p.y)}`).join(" ") }),
  ];
  let labelled = -Infinity;
  for (const point of points) {
    const state = point.out ? " out" : point.number === fleet.serving ? " now" : "";
    const circle = shape("circle", { class: "point" + state, cx: x(point.x), cy: y(point.y), r: state === " now" ? 7 : 5 });
    circle.append(shape("title", {}, `${point.number}: ${milliseconds(point.latency_ms)}, ${point.quality.toFixed(3)}`));
    parts.push(circle);
    // Two labels that would overlap are none that can be read.
    if (x(point.x) - labelled < 24) continue;
    labelled = x(point.x);
    parts.push(shape("text", { x: labelled, y: 182, "text-anchor": "middle" }, point.latency_ms.toFixed(point.latency_ms < 10 ? 1 : 0)));
  }
  $("front").replaceChildren(...parts);
}

// One button a variant and one for the controller's choice. They are changed in place, so that the focus stays.
function offerPins(fleet, task) {
  const list = $("pins");
  list.hidden = fleet.variants.length < 2;
  const numbers = ["", ...fleet.variants.map((one) => one.number)].join(" ");
  if (list.dataset.numbers !== numbers) {
    list.dataset.numbers = numbers;
    list.replaceChildren(pinButton("Automatic", null, task), ...fleet.variants.map((one) => pinButton("", one.number, task)));
  }
  for (const button of list.children) {
    const one = fleet.variants.find((variant) => String(variant.number) === button.dataset.number);
    const pinned = fleet.pinned === null ? "" : String(fleet.pinned);
    button.setAttribute("aria-pressed", button.dataset.number === pinned);
    if (one) button.textContent = `${one.number} · ${milliseconds(one.latency_ms)} · ${one.quality.toPrecision(3)}${one.out ? " · out" : ""}`;
  }
}

function pinButton(label, number, task) {
  const button = element("button", label, "plain");
  button.type = "button";
  button.dataset.number = number === null ? "" : number;
  button.title = number === null ? "Let the load choose the variant" : `Serve by variant ${number} alone`;
  button.addEventListener("click", async () => {
    const path = number === null ? "/v1/variants:unpin" : `/v1/variants/${number}:pin`;
    try {
      await call("POST", `${path}?task=${encodeURIComponent(task)}`);
      await live();
    } catch (error) {
      $("front-note").textContent = error.message;
    }
  });
  return button;
}
