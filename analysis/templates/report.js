// Reading values off the plots, by pointing and by keyboard. The page is whole without it: every value is
// also a <title> of its element and stands in a table.
const told = (spot) => {
  const words = spot.querySelector("title").textContent;
  const colon = words.indexOf(": ");
  const of = spot.dataset.of?.split(" ");
  const values = words.slice(colon + 2).split(", ");
  if (of?.length !== values.length) return words;
  const visible = values.filter((_, i) => document.getElementById(`show-b${of[i]}`)?.checked ?? true);
  return `${words.slice(0, colon)}: ${visible.join(", ")}`;
};
for (const plot of document.querySelectorAll("figure svg")) {
  const spots = [...plot.querySelectorAll(".hover, .mark, .flag")].filter((spot) => spot.querySelector("title"));
  if (!spots.length) continue;
  const readout = document.createElement("p");
  readout.className = "readout";
  readout.setAttribute("aria-live", "polite");
  plot.after(readout);
  plot.setAttribute("tabindex", "0");
  const order = spots.map((spot) => ({ spot, box: spot.getBBox() })).sort((a, b) => a.box.x - b.box.x);
  const shown = () => order.filter(({ spot }) => spot.checkVisibility());
  let at = -1;
  const show = (spot) => {
    plot.querySelector(".on")?.classList.remove("on");
    spot?.classList.add("on");
    readout.textContent = spot ? told(spot) : "";
  };
  plot.addEventListener("pointerover", (event) => {
    const spot = event.target.closest(".hover, .mark, .flag");
    if (spot?.querySelector("title")) show(spot);
  });
  plot.addEventListener("pointerleave", () => show(null));
  plot.addEventListener("blur", () => show(null));
  plot.addEventListener("focus", () => { if (at < 0) at = 0; show(shown()[at]?.spot); });
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, PageDown: 10, PageUp: -10, Home: -1e9, End: 1e9 }[event.key];
    if (!step) return;
    event.preventDefault();
    const visible = shown();
    at = Math.min(visible.length - 1, Math.max(0, at + step));
    show(visible[at]?.spot);
  });
}
