// Measures the documents in this page's frames when all have loaded, and writes the answer as JSON into this page.
"use strict";

function colour(text) {
  const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number);
  return { r, g, b, a };
}

function over(top, below) {
  const mix = (x, y) => x * top.a + y * (1 - top.a);
  return { r: mix(top.r, below.r), g: mix(top.g, below.g), b: mix(top.b, below.b), a: 1 };
}

function luminance({ r, g, b }) {
  const line = (value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  return 0.2126 * line(r) + 0.7152 * line(g) + 0.0722 * line(b);
}

function contrast(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
}

function background(element) {
  const layers = [];
  for (let up = element; up; up = up.parentElement) {
    layers.push(colour(getComputedStyle(up).backgroundColor));
    if (layers.at(-1).a === 1) return layers.reduceRight((below, top) => over(top, below));
  }
  return [...layers, { r: 255, g: 255, b: 255, a: 1 }].reduceRight((below, top) => over(top, below));
}

function box(rectangle) {
  return { left: rectangle.left, top: rectangle.top, right: rectangle.right, bottom: rectangle.bottom };
}

function scrolls(element) {
  return ["auto", "scroll"].includes(getComputedStyle(element).overflowX);
}

function inScrollBox(element) {
  for (let up = element.parentElement; up; up = up.parentElement) if (scrolls(up)) return true;
  return false;
}

function texts(page) {
  const found = [];
  const walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || ["STYLE", "SCRIPT", "TITLE", "style", "title"].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const svg = element.closest("svg");
    const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
    const below = background(element);
    found.push({
      text: node.data.trim().slice(0, 60),
      contrast: contrast(over(colour(svg ? style.fill : style.color), below), below),
      size: parseFloat(style.fontSize) * scale,
    });
  }
  return found;
}

function picture(svg) {
  return {
    label: svg.getAttribute("aria-label"),
    box: box(svg.getBoundingClientRect()),
    texts: [...svg.querySelectorAll("text")].map((text) => ({
      text: text.textContent.trim(),
      box: box(text.getBoundingClientRect()),
    })),
  };
}

function measure(frame) {
  const page = frame.contentDocument;
  const view = frame.contentWindow;
  page.querySelectorAll("details").forEach((details) => (details.open = true));
  const root = page.documentElement;
  const variables = view.getComputedStyle(root);
  const outside = [...page.body.querySelectorAll("*")].filter((element) => {
    const { left, right, width } = element.getBoundingClientRect();
    return width && (left < -0.5 || right > view.innerWidth + 0.5) && !inScrollBox(element);
  });
  return {
    width: view.innerWidth,
    scrollWidth: root.scrollWidth,
    height: root.scrollHeight,
    bodyHeight: page.body.getBoundingClientRect().height,
    dark: view.matchMedia("(prefers-color-scheme: dark)").matches,
    outside: outside.map((element) => `${element.tagName}.${element.getAttribute("class")}: ${element.textContent}`),
    scrolling: [...page.querySelectorAll("*")].filter((e) => scrolls(e) && e.scrollWidth > e.clientWidth + 1).length,
    images: [...page.images].map((image) => image.naturalWidth),
    texts: texts(page),
    pictures: [...page.querySelectorAll("svg")].map(picture),
    colours: Object.fromEntries(
      ["paper", "ink", "dense", "small", "baseline"].map((name) => [name, variables.getPropertyValue(`--${name}`).trim()]),
    ),
  };
}

window.addEventListener("load", () => {
  const answer = document.createElement("pre");
  answer.id = "answer";
  answer.textContent = JSON.stringify([...document.querySelectorAll("iframe")].map(measure));
  document.body.append(answer);
});
