"use strict";
const data = JSON.parse(document.getElementById("frames").textContent);
const slider = document.getElementById("step");
const cells = [...document.querySelectorAll("img[data-run]")];
const heads = [...document.querySelectorAll("[data-step-of]")];

// Each run shows its last grid at or before the step of the slider.
function frameOf(run, step) {
  let found = null;
  for (const frame of data.runs[run]) if (frame.step <= step) found = frame;
  return found;
}

function show() {
  const step = data.steps[Number(slider.value)];
  const text = `step ${step.toLocaleString("en")}`;
  document.getElementById("step-now").textContent = text;
  slider.setAttribute("aria-valuetext", text);
  for (const head of heads) {
    const frame = frameOf(Number(head.dataset.stepOf), step);
    head.textContent = frame ? `step ${frame.step.toLocaleString("en")}` : "not begun";
  }
  for (const cell of cells) {
    const frame = frameOf(Number(cell.dataset.run), step);
    const picture = frame && frame.pictures[cell.dataset.row];
    cell.classList.toggle("none", !picture);
    if (picture) cell.src = picture;
  }
}

if (slider) {
  slider.disabled = false;
  slider.addEventListener("input", show);
  show();
}
