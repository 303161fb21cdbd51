"use strict";
// What all figures share: the look of the page, and colours that a value keeps.

const LIGHT = [
  "#0072b2",
  "#d55e00",
  "#00855f",
  "#b0558a",
  "#806600",
  "#2a93d1",
  "#882255",
  "#332288",
  "#666666",
  "#8a3b12",
];
const DARK = [
  "#5cb3ea",
  "#f0935a",
  "#3fc9a0",
  "#e6a3c8",
  "#dcc54a",
  "#a5d8f5",
  "#d27ba3",
  "#a9a0f5",
  "#bbbbbb",
  "#d9a07c",
];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "star"];
const DASHES = ["solid", "dot", "dashdot"];
const BUTTONS = ["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"];
const dark = matchMedia("(prefers-color-scheme: dark)");
const coarse = matchMedia("(pointer: coarse)"); // a finger that scrolls must not zoom

const paint = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Groups by their value of a facet, each with the colour and the symbol of that value. */
function series(groups, facet) {
  const palette = dark.matches ? DARK : LIGHT;
  return groupsOf(groups, [facet]).map((part) => {
    const code = Math.max(0, part.codes[facet]);
    const round = Math.floor(code / palette.length);
    return {
      name: literal(valueOf(part, facet)),
      groups: part.runs,
      colour: palette[code % palette.length],
      symbol: SYMBOLS[round % SYMBOLS.length],
      dash: DASHES[round % DASHES.length],
    };
  });
}

/** An axis in the page's colours. */
const axis = (title, more = {}) => ({
  title: { text: title, standoff: 8 },
  gridcolor: paint("--line"),
  linecolor: paint("--line"),
  zeroline: false,
  automargin: true,
  ...more,
});

/** A logarithmic axis over `values` whose ticks are written out: 1, 2, 5, 10... */
function logAxis(title, values) {
  const [low, high] = [Math.min(...values), Math.max(...values)].map(Math.log10);
  const factors = high - low > 2.5 ? [1] : [1, 2, 5];
  const powers = Array.from(
    { length: Math.ceil(high) - Math.floor(low) + 1 },
    (_, n) => n + Math.floor(low),
  );
  const tickvals = powers.flatMap((power) => factors.map((factor) => factor * 10 ** power));
  return axis(title, { type: "log", tickvals, ticktext: tickvals.map(amount) });
}

/** Draw, or draw again; the legend adds to the height, so that it leaves the plot its own. */
function draw(host, traces, { height = 420, ...layout }, axes = true) {
  const named = Math.max(1, Math.floor(host.clientWidth / 170)); // entries of a legend in a row
  const common = {
    autosize: true,
    height: height + 20 * Math.ceil(traces.length / named),
    margin: { l: 56, r: 16, t: 16, b: 48 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: paint("--ink") },
    hoverlabel: {
      bgcolor: paint("--card"),
      bordercolor: paint("--line"),
      font: { color: paint("--ink") },
      align: "left",
    },
    hovermode: "closest",
    dragmode: coarse.matches ? false : "zoom",
    legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: paint("--faint"), activecolor: paint("--ink") },
    showlegend: true,
  };
  const settings = {
    responsive: true,
    displaylogo: false,
    displayModeBar: axes && !coarse.matches ? "hover" : false,
    modeBarButtons: [BUTTONS], // named one by one: some of Plotly's own would send data away
    plotlyServerURL: "",
  };
  host.querySelector(":scope > .note")?.remove();
  return Plotly.react(host, traces, { ...common, ...layout }, settings);
}

/** What a reader hears in place of a figure; the numbers are elsewhere on the page. */
function describe(host, text) {
  host.setAttribute("role", "figure");
  host.setAttribute("aria-label", text);
}

/** Say in a figure's place why there is none. */
function nothing(host, text) {
  Plotly.purge(host);
  host.removeAttribute("role");
  host.removeAttribute("aria-label");
  host.replaceChildren(element("p", { class: "note" }, text));
}
