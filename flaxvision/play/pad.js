// A pad on which one draws at once, with a mouse, a pen or a finger; Gradio calls this with its element, props and trigger.
const canvas = element.querySelector("canvas"), pen = canvas.getContext("2d");
let drawing = false;

const clear = () => {
  pen.fillStyle = "white";
  pen.fillRect(0, 0, canvas.width, canvas.height);
};

const tell = (image) => {
  props.value = image;
  trigger("input");
};

const go = (event) => {
  const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width;
  pen.lineTo((event.clientX - box.left) * scale, (event.clientY - box.top) * scale);
  pen.stroke();
};

const begin = (event) => {
  canvas.setPointerCapture(event.pointerId);
  [pen.lineWidth, pen.lineCap, pen.lineJoin] = [canvas.width / 13, "round", "round"];
  drawing = true;
  pen.beginPath();
  go(event);
};

const end = () => {
  if (drawing) tell(canvas.toDataURL("image/png"));
  drawing = false;
};

clear();
canvas.addEventListener("pointerdown", begin);
canvas.addEventListener("pointermove", (event) => drawing && go(event));
canvas.addEventListener("pointerup", end);
canvas.addEventListener("pointercancel", end);
element.querySelector("button").addEventListener("click", () => {
  clear();
  tell("");
});
