// The playground: what is shown, what is asked, what is said. Whatever a model, a file or a person
// says is put in as text; no markup is ever made of it.
"use strict";

const $ = (id) => document.getElementById(id);
const state = { model: null, files: {}, things: [], chosen: -1, rendered: null, going: null };

function make(tag, fields = {}, ...inside) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(fields)) {
    if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...inside);
  return element;
}

const share = (p) => (p >= 0.001 ? `${(100 * p).toFixed(1)} %` : p.toExponential(1));
const mode = () => document.querySelector("input[name=mode]:checked").value;

// --- the API ---

async function post(path, tree, signal) {
  const reply = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(tree),
    signal,
  });
  if (!reply.ok) throw new Error(await reasonOf(reply));
  return reply;
}

async function reasonOf(reply) {
  const told = await reply.json().catch(() => ({}));
  return told.error || `the server says ${reply.status}`;
}

async function* linesOf(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}

function encoded(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error("the file cannot be read"));
    reader.readAsDataURL(file);
  });
}

// One thing is done at a time: a new one ends the one before it.
async function doing(names, work) {
  if (state.going) state.going.abort();
  const own = (state.going = new AbortController());
  $(names.error).textContent = "";
  $(names.stop).disabled = false;
  $(names.status).classList.add("waiting");
  try {
    await work(own.signal);
  } catch (error) {
    if (own.signal.aborted) {
      if (state.going === own) $(names.status).textContent = "stopped";
    } else {
      $(names.status).textContent = "";
      const lost = error instanceof TypeError;
      $(names.error).textContent = lost ? "the server does not answer" : error.message;
    }
  } finally {
    if (state.going === own) {
      state.going = null;
      $(names.stop).disabled = true;
      $(names.status).classList.remove("waiting");
    }
  }
}

// --- files ---

const KINDS = {
  image: ["A picture", "PNG, JPEG, WebP, BMP or GIF: drop it here, choose it, or paste it."],
  video: ["A clip", "MP4, WebM, GIF, …: drop it here or choose it."],
  audio: ["A sound", "WAV, FLAC, MP3, Ogg, …: drop it here or choose it."],
};
const ACCEPTED = { image: "image/*", video: "video/*,image/gif", audio: "audio/*,video/*" };
const VIEWS = { image: "img", video: "video", audio: "audio" };

function makeDrop(key) {
  const drop = $("file").content.cloneNode(true).firstElementChild;
  const input = drop.querySelector("input");
  drop.querySelector("span").textContent = KINDS[key][0];
  drop.querySelector(".hint").textContent = KINDS[key][1];
  input.id = `file-${key}`;
  input.accept = ACCEPTED[key];
  const take = (file) => file && takeFile(key, file, drop);
  input.addEventListener("change", () => take(input.files[0]));
  drop.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
  if (key === "image") {
    document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
  }
  return drop;
}

function takeFile(key, file, drop) {
  const most = Math.floor(state.model.limits.body * 0.74); // base64 takes a third more
  $("error").textContent = "";
  if (file.size > most) {
    $("error").textContent = `${file.name} has ${file.size} bytes; at most ${most} are taken`;
    return;
  }
  if (state.files[key]) URL.revokeObjectURL(state.files[key].url);
  const view = drop.querySelector(VIEWS[key]);
  const url = URL.createObjectURL(file);
  state.files[key] = { file, url };
  view.src = url;
  view.hidden = false;
  drop.querySelector(".hint").textContent = file.name;
  if (state.model.scenes) document.querySelector("input[name=mode][value=file]").click();
}

async function shown() {
  if (mode() === "scene") {
    if (!state.things.length) throw new Error("the scene is empty: add a shape");
    return { scene: sceneOf() };
  }
  const tree = {};
  for (const key of state.model.takes) {
    if (!state.files[key]) throw new Error(`${KINDS[key][0].toLowerCase()} is missing`);
    tree[key] = await encoded(state.files[key].file);
  }
  return tree;
}

// --- scenes ---

const FINE = 0.02;
const COARSE = 0.1;
const canvas = () => $("canvas");
const picked = (name) => document.querySelector(`input[name=${name}]:checked`).value;
const told = (thing) => `${thing.size} ${thing.colour} ${thing.shape}`;
const place = (thing) =>
  `${Math.round(100 * thing.x)} % from the left, ${Math.round(100 * thing.y)} % from the top`;
const inside = (value) => Math.min(1, Math.max(0, Math.round(1000 * value) / 1000));

function sceneOf() {
  return { objects: state.things, background: $("background").value, tone: $("tone").value };
}

function makeScene(world) {
  const radios = (name, values, first, patch) => {
    for (const value of values) {
      const input = make("input", { type: "radio", name, value, checked: value === first });
      input.addEventListener("change", () => change({ [name]: value }));
      const label = make("label", {}, input);
      if (patch) {
        const colour = make("span", { className: "patch" });
        colour.style.background = `rgb(${world.colours[value].join(" ")})`;
        label.append(colour);
      }
      label.append(value);
      $(`${name}s`).append(label);
    }
  };
  radios("shape", world.shapes, world.shapes[0]);
  radios("colour", Object.keys(world.colours), "red", true);
  radios("size", Object.keys(world.sizes), "large");
  for (const [id, values] of [["background", world.backgrounds], ["tone", world.tones]]) {
    $(id).append(...values.map((value) => make("option", { value }, value)));
    $(id).addEventListener("change", render);
  }
  $("add").addEventListener("click", () => add(...free()));
  canvas().addEventListener("keydown", byKey);
  canvas().addEventListener("pointerdown", byPointer);
}

function add(x, y) {
  const most = state.model.limits.objects;
  if (state.things.length >= most) {
    say(`at most ${most} shapes`);
    return;
  }
  const [shape, colour, size] = ["shape", "colour", "size"].map(picked);
  state.things.push({ shape, colour, size, x: inside(x), y: inside(y) });
  choose(state.things.length - 1);
  say(`${told(state.things.at(-1))} placed, ${place(state.things.at(-1))}`);
  render();
}

// Where a new shape is farthest from the others, and from the edge.
function free() {
  let best = [0.5, 0.5];
  let room = -1;
  for (let x = 0.2; x < 0.85; x += 0.1) {
    for (let y = 0.2; y < 0.85; y += 0.1) {
      const near = Math.min(1, ...state.things.map((o) => Math.hypot(o.x - x, o.y - y)));
      if (near > room + 1e-9) [best, room] = [[x, y], near];
    }
  }
  return state.things.length ? best : [0.5, 0.5];
}

function remove(index) {
  const [gone] = state.things.splice(index, 1);
  choose(Math.min(index, state.things.length - 1));
  say(`${told(gone)} taken away`);
  render();
}

function choose(index) {
  state.chosen = index;
  const thing = state.things[index];
  if (thing) {
    for (const name of ["shape", "colour", "size"]) {
      document.querySelector(`input[name=${name}][value=${thing[name]}]`).checked = true;
    }
  }
  list();
  paint();
}

function change(fields) {
  if (!state.things[state.chosen]) return;
  Object.assign(state.things[state.chosen], fields);
  list();
  render();
}

function move(dx, dy) {
  const thing = state.things[state.chosen];
  if (!thing) return;
  thing.x = inside(thing.x + dx);
  thing.y = inside(thing.y + dy);
  say(`${told(thing)}, ${place(thing)}`);
  list();
  render();
}

function list() {
  const focused = document.activeElement && document.activeElement.dataset.row;
  $("things").replaceChildren(
    ...state.things.map((thing, i) => {
      const patch = make("span", { className: "patch" });
      patch.style.background = `rgb(${state.model.world.colours[thing.colour].join(" ")})`;
      const pick = make("button", { type: "button" }, patch, `${told(thing)}, ${place(thing)}`);
      pick.setAttribute("aria-pressed", i === state.chosen);
      pick.dataset.row = i;
      pick.addEventListener("click", () => choose(i));
      const away = make("button", { type: "button" }, "Remove");
      away.setAttribute("aria-label", `Remove the ${told(thing)}`);
      away.addEventListener("click", () => {
        remove(i);
        canvas().focus();
      });
      return make("li", {}, pick, away);
    }),
  );
  if (focused !== undefined && focused !== null) {
    const again = document.querySelector(`#things [data-row="${focused}"]`);
    if (again) again.focus();
  }
}

function say(text) {
  $("moved").textContent = text;
}

function byKey(event) {
  const far = event.shiftKey ? COARSE : FINE;
  const count = state.things.length;
  const keys = {
    ArrowLeft: () => move(-far, 0),
    ArrowRight: () => move(far, 0),
    ArrowUp: () => move(0, -far),
    ArrowDown: () => move(0, far),
    Enter: () => add(...free()),
    " ": () => add(...free()),
    Delete: () => state.chosen >= 0 && remove(state.chosen),
    Backspace: () => state.chosen >= 0 && remove(state.chosen),
    PageDown: () => count && turn(1),
    PageUp: () => count && turn(-1),
  };
  if (!keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
}

function turn(step) {
  const count = state.things.length;
  choose((state.chosen + step + count) % count);
  say(`${told(state.things[state.chosen])} chosen`);
}

function byPointer(event) {
  event.preventDefault();
  canvas().focus();
  const at = (e) => {
    const box = canvas().getBoundingClientRect();
    return [(e.clientX - box.left) / box.width, (e.clientY - box.top) / box.height];
  };
  const [x, y] = at(event);
  const hit = state.things.findLastIndex(
    (thing) => Math.hypot(thing.x - x, thing.y - y) < state.model.world.sizes[thing.size] * 1.1,
  );
  if (hit < 0) {
    add(x, y);
    return;
  }
  choose(hit);
  const drag = (e) => {
    const [toX, toY] = at(e);
    Object.assign(state.things[hit], { x: inside(toX), y: inside(toY) });
    render();
  };
  const drop = () => {
    canvas().removeEventListener("pointermove", drag);
    list();
    say(`${told(state.things[hit])}, ${place(state.things[hit])}`);
  };
  canvas().setPointerCapture(event.pointerId);
  canvas().addEventListener("pointermove", drag);
  canvas().addEventListener("pointerup", drop, { once: true });
  canvas().addEventListener("pointercancel", drop, { once: true });
}

// The server draws the scene, so that what is seen here is what the run sees. While it is at one
// picture only the newest wish is kept.
let rendering = false;
let again = false;

async function render() {
  paint();
  if (rendering) {
    again = true;
    return;
  }
  rendering = true;
  canvas().setAttribute("aria-busy", "true");
  try {
    do {
      again = false;
      state.rendered = state.things.length ? await renderOnce() : null;
      paint();
    } while (again);
  } catch (error) {
    $("error").textContent = error.message;
  } finally {
    rendering = false;
    canvas().setAttribute("aria-busy", "false");
  }
}

async function renderOnce() {
  const reply = await post("/api/scene", { scene: sceneOf(), size: 480 });
  const image = new Image();
  image.src = `data:image/png;base64,${(await reply.json()).image}`;
  await image.decode();
  return image;
}

function paint() {
  const side = canvas().width;
  const context = canvas().getContext("2d");
  context.clearRect(0, 0, side, side);
  if (state.rendered) context.drawImage(state.rendered, 0, 0, side, side);
  const thing = state.things[state.chosen];
  if (!thing) return;
  const reach = 1.15 * state.model.world.sizes[thing.size] * side;
  context.setLineDash([8, 6]);
  for (const [colour, width] of [["#000", 5], ["#fff", 2]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.strokeRect(thing.x * side - reach, thing.y * side - reach, 2 * reach, 2 * reach);
  }
}

// --- what is said ---

const ASKING = { status: "status", error: "error", stop: "stop" };

function clear() {
  for (const id of ["answer", "tables"]) $(id).replaceChildren();
  for (const id of ["said", "status", "error"]) $(id).textContent = "";
  $("map").hidden = true;
}

// what is typed, also 0, which the server may refuse
function numberIn(id, otherwise) {
  const number = $(id).valueAsNumber;
  return Number.isNaN(number) ? otherwise : number;
}

function settings() {
  return {
    method: $("method").value,
    temperature: numberIn("temperature", 1),
    top_p: numberIn("top_p", 1),
    seed: numberIn("seed", 0),
  };
}

function ask(question) {
  clear();
  return doing(ASKING, async (signal) => {
    const tree = await shown();
    if (question) tree.question = question;
    if (state.model.kind === "texts") tree.settings = settings();
    if (state.model.maps) tree.maps = true;
    const begin = performance.now();
    $("status").textContent = "asking";
    let before = "";
    for await (const line of linesOf(await post("/api/ask/stream", tree, signal))) {
      if (line.error) throw new Error(line.error);
      if ("answer" in line) {
        tellWhole(line, (performance.now() - begin) / 1000);
      } else if (line.text !== before) {
        addWord(line, before);
        before = line.text;
      }
    }
  });
}

function addWord(line, before) {
  const whole = line.text.startsWith(before);
  if (!whole) $("answer").replaceChildren();
  const text = whole ? line.text.slice(before.length) : line.text;
  putWord({ text, probability: line.probability });
}

function putWord(word) {
  const text = word.text.trimStart();
  if (text !== word.text && $("answer").childNodes.length) $("answer").append(" ");
  const tag = word.maps ? "button" : "span";
  const element = make(tag, { className: "word" }, text);
  if (word.maps) element.type = "button";
  if (word.probability !== undefined) {
    element.style.setProperty("--sure", word.probability);
    element.title = share(word.probability);
  }
  if (word.maps) {
    element.setAttribute("aria-pressed", "false");
    element.addEventListener("click", () => showMaps(word, element));
  }
  $("answer").append(element);
  return element;
}

function tellWhole(whole, seconds) {
  $("answer").replaceChildren();
  if (whole.words) {
    const elements = whole.words.map(putWord);
    const first = whole.words.findIndex((word) => word.maps);
    if (first >= 0) showMaps(whole.words[first], elements[first]);
  } else {
    $("answer").textContent = whole.answer || "nothing";
  }
  $("said").textContent = whole.answer || "nothing";
  const never = whole.unknown && whole.unknown.length;
  const note = never ? `; never seen in training: ${whole.unknown.join(", ")}` : "";
  $("status").textContent = `${share(whole.probability)}, ${seconds.toFixed(2)} s${note}`;
  if (whole.classes) table(["class", "probability"], whole.classes.slice(0, 10), (row) => [
    row.text, share(row.probability),
  ]);
  if (whole.events) table(["event", "from", "to", "probability"], whole.events, (row) => [
    row.text, `${row.start.toFixed(2)} s`, `${row.end.toFixed(2)} s`, share(row.probability),
  ]);
}

const OVER = { image: "in the picture", video: "in frames of the clip", audio: "in the spectrogram" };

function showMaps(word, element) {
  for (const other of document.querySelectorAll("button.word")) {
    other.setAttribute("aria-pressed", other === element);
  }
  const wrote = `as it wrote “${word.text.trim()}”`;
  $("map-images").replaceChildren(
    ...Object.entries(word.maps).map(([sense, map]) => make("img", {
      className: sense,
      src: `data:image/png;base64,${map}`,
      alt: `Where the model looked ${OVER[sense]} ${wrote}`,
    })),
  );
  $("map-text").textContent = `Where it looked ${wrote}, ` +
    `${share(word.probability)}; choose another word above`;
  $("map").hidden = false;
}

function table(columns, rows, cells) {
  const head = make("tr", {}, ...columns.map((name) => make("th", { scope: "col" }, name)));
  const body = rows.map((row) => make("tr", {}, ...cells(row).map((text) => make("td", {}, text))));
  $("tables").replaceChildren(
    make("div", { className: "wide", role: "region", tabIndex: 0, "aria-label": columns[0] },
      make("table", {}, make("thead", {}, head), make("tbody", {}, ...body))),
  );
}

// --- what is drawn ---

const DRAWING = { status: "draw-status", error: "draw-error", stop: "draw-stop" };

function draw() {
  $("drawn").replaceChildren();
  return doing(DRAWING, async (signal) => {
    const prompt = $("prompt").value;
    const seed = numberIn("draw-seed", 0);
    const begin = performance.now();
    $("draw-status").textContent = "drawing";
    const tree = { prompt, n: numberIn("count", 1), seed };
    const made = await (await post("/api/draw", tree, signal)).json();
    const kind = made.type === "image/gif" ? "gif" : "png";
    made.pictures.forEach((picture, i) => {
      const url = `data:${made.type};base64,${picture}`;
      const save = make("a", { href: url, download: `${i}.${kind}` }, "Save");
      save.setAttribute("aria-label", `Save picture ${i + 1}`);
      const image = make("img", { src: url, alt: `Picture ${i + 1} drawn of: ${prompt}` });
      $("drawn").append(make("article", {}, image, make("div", {}, save)));
    });
    const seconds = ((performance.now() - begin) / 1000).toFixed(1);
    $("draw-status").textContent = `${made.pictures.length} drawn in ${seconds} s`;
  });
}

// --- the beginning ---

async function begin() {
  const reply = await fetch("/api/model");
  if (!reply.ok) throw new Error(await reasonOf(reply));
  const model = (state.model = await reply.json());
  $("title").textContent = `Try ${model.run}`;
  document.title = `Try ${model.run}`;
  const takes = model.takes.map((key) => KINDS[key][0].toLowerCase()).join(" and ");
  const does = { texts: model.asks ? "describes and answers" : "describes", classes: "names",
    events: "finds what happens in", drawings: "draws what a prompt says" }[model.kind];
  $("about").textContent = model.kind === "drawings"
    ? `A ${model.model} after ${model.step} steps of training: ${does}.`
    : `A ${model.model} after ${model.step} steps of training: takes ${takes}, ${does}.`;
  if (model.kind === "drawings") {
    $("drawing").hidden = false;
    $("count").max = model.limits.pictures;
    $("prompt").maxLength = model.limits.characters;
    return;
  }
  $("files").append(...model.takes.map(makeDrop));
  $("modes").hidden = !model.scenes;
  $("questioned").hidden = $("ask").hidden = !model.asks;
  $("question").maxLength = model.limits.characters;
  $("settings").hidden = model.kind !== "texts";
  const verbs = { texts: "Describe", classes: "Name it", events: "Find events" };
  $("caption").textContent = verbs[model.kind];
  if (model.scenes) makeScene(model.world);
  $("telling").hidden = false;
}

for (const input of document.querySelectorAll("input[name=mode]")) {
  input.addEventListener("change", () => {
    $("files").hidden = mode() !== "file";
    $("scene").hidden = mode() !== "scene";
  });
}
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask($("question").value.trim());
});
$("caption").addEventListener("click", () => ask(""));
$("draw-form").addEventListener("submit", (event) => {
  event.preventDefault();
  draw();
});
for (const id of ["stop", "draw-stop"]) {
  $(id).addEventListener("click", () => state.going && state.going.abort());
}
// a file that misses its place would replace the page
for (const name of ["dragover", "drop"]) {
  window.addEventListener(name, (event) => event.preventDefault());
}
begin().catch((error) => {
  $("about").textContent = "";
  $("error").textContent = error.message;
  $("telling").hidden = false;
});
