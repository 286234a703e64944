// One cursor through all plots, with the figures of the nearest epoch.
(() => {
  const stack = document.querySelector(".stack");
  const epochs = JSON.parse(document.getElementById("epochs").textContent);
  if (!stack || !epochs.length) return;
  const cursor = stack.querySelector(".cursor");
  const readout = stack.querySelector(".readout");
  const plot = stack.querySelector(".plot");
  const nearest = (percent) =>
    epochs.reduce((a, b) => (Math.abs(b.at - percent) < Math.abs(a.at - percent) ? b : a));
  stack.addEventListener("pointermove", (event) => {
    const frame = plot.getBoundingClientRect();
    const percent = (100 * (event.clientX - frame.left)) / frame.width;
    const inside = percent >= 0 && percent <= 100;
    cursor.style.display = inside ? "block" : "none";
    if (!inside) return;
    const epoch = nearest(percent);
    const left = frame.left - stack.getBoundingClientRect().left + (epoch.at * frame.width) / 100;
    cursor.style.left = `${left}px`;
    readout.textContent = epoch.text;
    const half = readout.offsetWidth / 2;
    const shift = Math.min(0, stack.clientWidth - left - half) + Math.max(0, half - left);
    readout.style.marginLeft = `${shift}px`;
  });
  stack.addEventListener("pointerleave", () => (cursor.style.display = "none"));
})();
