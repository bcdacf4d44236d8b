// The page: asks /imagine for one picture after another, and shows them as they come.
"use strict";

const byId = (id) => document.getElementById(id);
const AT_ONCE = 6; // requests
const RETRIES = 5; // of a request that the server is too busy for
const STEPS = 8; // of the way to another caption
const NEAR = 0.35; // share of the way to another noise, for "more like this"
const MAX_SEED = 999999; // short enough to read aloud
const KEPT = 30; // captions of this visit

let models = [];
let running = 0;
const waiting = [];
let open = null; // the picture in the dialog

const el = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};
const model = () => models.find((each) => each.id === byId("model").value) ?? models[0];
const randomSeed = () => Math.floor(Math.random() * (MAX_SEED + 1));
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function ask(path) {
  const token = sessionStorage.getItem("token");
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  for (let tried = 0; ; tried++) {
    let answer;
    try {
      answer = await fetch(path, { headers });
    } catch {
      throw new Error("The server does not answer.");
    }
    if (answer.ok) return answer;
    if (answer.status === 503 && tried < RETRIES) {
      await pause(1000 * Number(answer.headers.get("retry-after") ?? 1));
      continue;
    }
    if (answer.status === 401) byId("login").hidden = false;
    const body = await answer.json().catch(() => null);
    throw new Error(body?.error?.message ?? `The server answers with status ${answer.status}.`);
  }
}

/** Runs a task when fewer than AT_ONCE run. */
function queued(task) {
  return new Promise((done, fail) => {
    waiting.push(() => task().then(done, fail));
    next();
  });
}
function next() {
  while (running < AT_ONCE && waiting.length) {
    running += 1;
    waiting.shift()().finally(() => { running -= 1; next(); });
  }
}

/** Draws a question: address of the picture in this page, and the server's note. */
function draw(question) {
  const query = new URLSearchParams(
    Object.entries(question).filter(([, value]) => value !== null && value !== ""));
  return queued(async () => {
    const answer = await ask(`/imagine?${query}`);
    return { url: URL.createObjectURL(await answer.blob()), note: answer.headers.get("x-note") ?? "" };
  });
}

const shown = (question) =>
  question.noise_share ? `seed ${question.seed} → ${question.other_seed}` : `seed ${question.seed}`;
const small = (image, size) => image.classList.toggle("small", size < 128);

/** Shows pictures in a new strip at the top, each as it comes. */
async function strip(title, questions) {
  const size = model()?.image_size ?? 64;
  const grid = el("ul", { className: "grid" });
  byId("results").prepend(el("section", { className: "strip" }, el("h2", { textContent: title }), grid));
  byId("status").textContent = `Drawing ${questions.length} …`;
  let failed = "";
  let note = "";
  await Promise.all(questions.map(async (question) => {
    const frame = el("span", { className: "frame" });
    const button = el("button", { type: "button", className: "picture", disabled: true }, frame,
      el("span", { className: "seed", textContent: shown(question) }));
    grid.append(el("li", {}, button));
    try {
      const drawn = await draw(question);
      const image = el("img", { src: drawn.url, alt: `${question.prompt}, ${shown(question)}` });
      small(image, size);
      frame.append(image);
      note ||= drawn.note;
      button.disabled = false;
      button.addEventListener("click", () => openDetail({ question, ...drawn, size }));
    } catch (error) {
      failed = error.message;
      button.classList.add("failed");
      frame.append(el("span", { className: "error", textContent: error.message }));
    }
  }));
  byId("status").textContent =
    failed || note || (questions.length === 1 ? "1 picture drawn." : `${questions.length} pictures drawn.`);
}

function drawCaption(prompt, seed = null) {
  const count = Math.min(16, Math.max(1, Number(byId("count").value) || 8));
  const first = seed ?? randomSeed();
  const base = { prompt, model: byId("model").value, truncation: byId("truncation").value };
  remember({ prompt, seed: first, model: base.model });
  return strip(prompt, Array.from({ length: count }, (_, n) => ({ ...base, seed: first + n })));
}

// ---- this visit

const visited = () => JSON.parse(sessionStorage.getItem("visited") ?? "[]");
function remember(entry) {
  const rest = visited().filter((each) => JSON.stringify(each) !== JSON.stringify(entry));
  sessionStorage.setItem("visited", JSON.stringify([entry, ...rest].slice(0, KEPT)));
  showVisited();
}
function showVisited() {
  const entries = visited();
  byId("history").hidden = !entries.length;
  byId("asked").replaceChildren(...entries.map((entry) => {
    const button = el("button", { type: "button", textContent: entry.prompt });
    button.addEventListener("click", () => {
      if (models.some((each) => each.id === entry.model)) byId("model").value = entry.model;
      byId("prompt").value = entry.prompt;
      drawCaption(entry.prompt, entry.seed);
    });
    return el("li", {}, button);
  }));
}

// ---- one picture

function openDetail(picture) {
  open = { ...picture, pictures: null };
  byId("detail-caption").textContent = picture.question.prompt;
  byId("detail-seed").textContent = shown(picture.question);
  byId("detail-note").textContent = picture.note;
  byId("detail-status").textContent = "";
  byId("look").hidden = !models.find((each) => each.id === picture.question.model)?.attention;
  byId("more").hidden = Boolean(picture.question.noise_share);
  byId("look").setAttribute("aria-pressed", "false");
  byId("way").hidden = true;
  byId("other-prompt").value = "";
  show(picture.url, picture.question.prompt);
  if (!byId("detail").open) byId("detail").showModal();
}
function show(url, alt) {
  const image = byId("detail-image");
  image.src = url;
  image.alt = alt;
  small(image, open.size);
  byId("save").href = url;
  byId("save").download = `${open.question.prompt.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60)}.png`;
}
async function inDetail(task) {
  const status = byId("detail-status");
  status.textContent = "Drawing …";
  try {
    await task();
    status.textContent = "";
  } catch (error) {
    status.textContent = error.message;
  }
}

byId("more").addEventListener("click", () => {
  const { question } = open;
  byId("detail").close();
  strip(`More like ${shown(question)}: ${question.prompt}`, Array.from({ length: 8 }, () => (
    { ...question, other_seed: randomSeed(), noise_share: NEAR })));
});
byId("look").addEventListener("click", () => inDetail(async () => {
  const current = open;
  const on = byId("look").getAttribute("aria-pressed") !== "true";
  const drawn = on ? await draw({ ...current.question, attention: true }) : current;
  if (open !== current) return; // another picture was opened meanwhile
  byId("look").setAttribute("aria-pressed", String(on));
  byId("way").hidden = true;
  const prompt = current.question.prompt;
  show(drawn.url, on ? `Where the discriminator looks: ${prompt}` : prompt);
}));
byId("other").addEventListener("submit", (event) => {
  event.preventDefault();
  const prompt = byId("other-prompt").value.trim();
  const { question } = open;
  if (event.submitter?.value === "way") return inDetail(() => wayTo(prompt));
  byId("detail").close();
  remember({ prompt, seed: question.seed, model: question.model });
  strip(`${prompt} (noise of ${shown(question)})`, [
    { ...question, other_prompt: null, prompt_share: 0 },
    { ...question, prompt, other_prompt: null, prompt_share: 0 }]);
});
async function wayTo(prompt) {
  const current = open;
  const pictures = await Promise.all(Array.from({ length: STEPS + 1 }, (_, step) =>
    draw({ ...current.question, other_prompt: prompt, prompt_share: step / STEPS })));
  if (open !== current) return;
  open.pictures = pictures.map((each) => each.url);
  open.end = prompt;
  byId("look").setAttribute("aria-pressed", "false");
  byId("way").hidden = false;
  byId("share").max = String(STEPS);
  byId("share").value = "0";
  step();
  byId("share").focus();
}
function step() {
  const at = Number(byId("share").value);
  const text = `${Math.round(100 * at / STEPS)} % of the way to ${open.end}`;
  byId("share").setAttribute("aria-valuetext", text);
  show(open.pictures[at], `${open.question.prompt}, ${text}`);
}
byId("share").addEventListener("input", step);
byId("close").addEventListener("click", () => byId("detail").close());
byId("detail").addEventListener("click", (event) => {
  if (event.target === byId("detail")) byId("detail").close(); // the ground beside it
});

// ---- models

function showModel() {
  const now = model();
  byId("about").hidden = false;
  const facts = [["Name", now.id], ["Images", `${now.image_size} × ${now.image_size} px`],
    ["Step", now.step?.toLocaleString("en") ?? "not known"], ["Digest", now.digest.slice(0, 16)]];
  byId("facts").replaceChildren(...facts.flatMap(([name, value]) =>
    [el("dt", { textContent: name }), el("dd", { textContent: value })]));
  byId("card").textContent = now.card || "This model has no card.";
  byId("examples").replaceChildren(...now.examples.map((caption) => {
    const chip = el("button", { type: "button", textContent: caption });
    chip.addEventListener("click", () => {
      byId("prompt").value = caption;
      drawCaption(caption);
    });
    return chip;
  }));
}
async function start() {
  try {
    models = (await (await ask("/v1/models")).json()).data;
  } catch (error) {
    byId("status").textContent = error.message;
    return;
  }
  byId("login").hidden = true;
  byId("status").textContent = "";
  byId("model").replaceChildren(...models.map((each) => el("option", { value: each.id, textContent: each.id })));
  byId("models").hidden = models.length < 2;
  showModel();
  showVisited();
  byId("prompt").focus();
}
byId("model").addEventListener("change", showModel);
byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const prompt = byId("prompt").value.trim();
  const given = byId("seed").value;
  if (prompt) drawCaption(prompt, given === "" ? null : Number(given));
});
byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", byId("token").value);
  start();
});
start();
