// What the browser does by itself: it refuses files that are too large, and reads pixels of maps.
window.dash_clientside = window.dash_clientside || {};
window.dash_clientside.bcos = {
  take: function (contents, name, limits) {
    const none = window.dash_clientside.no_update;
    if (!contents) {
      return [none, none, none];
    }
    // Emptied afterwards, so that the same file can be given again.
    const data = contents.slice(contents.indexOf(",") + 1);
    if (data.length > 4 * (Math.floor(limits.bytes / 3) + 1)) {
      const [cause, fix] = limits.message;
      const text = { type: "Strong", namespace: "dash_html_components", props: { children: cause } };
      const box = { children: [text, " " + fix], className: "message" };
      return [none, null, { type: "Div", namespace: "dash_html_components", props: box }];
    }
    return [{ contents: contents, name: name || "picture" }, null, none];
  },

  read: function (hover, row, column, figure) {
    const none = window.dash_clientside.no_update;
    const map = figure && figure.data[0];
    const asked = window.dash_clientside.callback_context.triggered.map((t) => t.prop_id).join();
    let y, x;
    if (asked.endsWith(".hoverData")) {
      if (!hover) return none;
      [y, x] = [hover.points[0].y, hover.points[0].x];
    } else {
      [y, x] = [row, column];
    }
    if (!map || typeof y !== "number" || typeof x !== "number") return none;
    const value = at(map.z, y, x);
    const share = at(map.customdata, y, x);
    if (value === undefined) return "There is no such pixel.";
    return `Row ${y}, column ${x}: ${signed(value, 3)}, ${signed(share, 2)} % of all ${map.name}s`;
  },
};

// Arrays arrive as rows, or packed in base64.
function at(array, y, x) {
  if (Array.isArray(array)) return array[y] && array[y][x];
  const [height, width] = String(array.shape).split(",").map(Number);
  if (y < 0 || x < 0 || y >= height || x >= width) return undefined;
  const bytes = Uint8Array.from(atob(array.bdata), (letter) => letter.charCodeAt(0));
  return new Float32Array(bytes.buffer)[y * width + x];
}

function signed(value, digits) {
  const size = Math.abs(value);
  const text = size && size < 0.001 ? size.toExponential(1) : size.toFixed(digits);
  return (value < 0 ? "−" : "+") + text;
}
