// Colours PxL and SQL for the editor, and marks what is wrong.

const PXL = /(?<c>#[^\n]*)|(?<s>[rfb]{0,2}(?:'''[\s\S]*?(?:'''|$)|"""[\s\S]*?(?:"""|$)|'(?:\\.|[^'\\\n])*'?|"(?:\\.|[^"\\\n])*"?))|(?<n>\b\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?\b)|(?<k>\b(?:import|from|as|def|return|and|or|not|in|is|if|else|for|while|lambda|None|True|False|pass|with)\b)|(?<f>\bpx(?:\.[A-Za-z_]\w*)+|\bdf\.ctx\b)/g;
const SQL = /(?<c>--[^\n]*)|(?<s>'(?:''|[^'])*'?)|(?<n>\b\d+(?:\.\d+)?\b)|(?<k>\b(?:select|from|where|group|by|order|having|limit|offset|as|and|or|not|in|is|null|join|left|right|inner|outer|on|union|all|distinct|with|case|when|then|else|end|between|like|desc|asc|interval|cast|over|partition)\b)|(?<f>\b[a-z_]\w*(?=\())/gi;

/** Offsets `[start, end)` of a place that is given by lines and columns from 1, columns in characters. */
export function offsets(text, { line, col, end_line, end_col }) {
  const starts = [0];
  for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n", at + 1)) starts.push(at + 1);
  const place = (l, c) => {
    const start = starts[Math.min(l, starts.length) - 1] ?? 0;
    // Columns count characters, JavaScript counts UTF-16 units.
    return start + [...text.slice(start)].slice(0, c - 1).join("").length;
  };
  const start = place(line, col);
  return [start, Math.max(start + 1, place(end_line, end_col))];
}

/** Text nodes and spans for `text`; `wrong` holds ranges of offsets that are underlined. */
export function highlight(text, { sql = false, wrong = [] } = {}) {
  const edges = new Set();
  for (const [start, end] of wrong) edges.add(start).add(end);
  const parts = [];
  const push = (from, to, kind) => {
    let start = from;
    for (const edge of [...edges].filter((at) => at > from && at < to).sort((a, b) => a - b).concat(to)) {
      if (edge === start) continue;
      const isWrong = wrong.some(([a, b]) => start >= a && edge <= b);
      const className = [kind, isWrong ? "wavy" : ""].filter(Boolean).join(" ");
      const piece = text.slice(start, edge);
      if (className) {
        const span = document.createElement("span");
        span.className = className;
        span.textContent = piece;
        parts.push(span);
      } else {
        parts.push(document.createTextNode(piece));
      }
      start = edge;
    }
  };
  let last = 0;
  for (const match of text.matchAll(sql ? SQL : PXL)) {
    if (match.index > last) push(last, match.index, "");
    const kind = Object.entries(match.groups).find(([, value]) => value !== undefined)[0];
    push(match.index, match.index + match[0].length, kind);
    last = match.index + match[0].length;
  }
  if (last < text.length) push(last, text.length, "");
  return parts;
}
