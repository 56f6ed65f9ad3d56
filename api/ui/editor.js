// A text area with line numbers, colours and marks: the text is the browser's, only its look is drawn behind it.

import { h } from "./dom.js";
import { highlight, offsets } from "./highlight.js";

const COLOURED_MAX = 60_000;
const LINES_MIN = 7;
const LINES_MAX = 20;

export class Editor {
  constructor({ onrun, onchange }) {
    this.sql = false;
    this.diagnostics = [];
    this.leaves = false;
    this.onchange = onchange;
    this.text = h("textarea", {
      spellcheck: "false", autocomplete: "off", autocapitalize: "off", wrap: "off",
      "aria-label": "Script. Control and Enter runs it; Escape, then Tab leaves the editor.",
      oninput: () => { this.diagnostics = []; this.draw(); this.onchange?.(this.value); },
      onscroll: () => this.follow(),
      onkeydown: (event) => this.key(event, onrun),
    });
    this.back = h("pre", { "aria-hidden": "true" });
    this.gutter = h("div", { class: "gutter", "aria-hidden": "true" });
    this.root = h("div", { class: "editor" }, this.gutter, h("div", { class: "area" }, this.back, this.text));
    this.draw();
  }

  get value() {
    return this.text.value;
  }

  set value(text) {
    this.text.value = text;
    this.diagnostics = [];
    this.text.scrollTop = 0;
    const lines = Math.min(LINES_MAX, Math.max(LINES_MIN, text.split("\n").length));
    this.root.style.height = `${lines * 20 + 26}px`;
    this.draw();
  }

  /** Underlines the places and marks their lines. */
  mark(diagnostics) {
    this.diagnostics = diagnostics;
    this.draw();
  }

  /** Puts the caret at a place and shows it. */
  goTo({ line, col }) {
    const [start] = offsets(this.value, { line, col, end_line: line, end_col: col });
    this.text.focus();
    this.text.setSelectionRange(start, start);
    this.text.scrollTop = Math.max(0, (line - 4) * 20);
    this.follow();
  }

  draw() {
    const text = this.value;
    const wrong = this.diagnostics.map((diagnostic) => offsets(text, diagnostic));
    const isLong = text.length > COLOURED_MAX;
    // A last line that is empty only has a height if something follows it.
    this.back.replaceChildren(...(isLong ? [text] : highlight(text, { sql: this.sql, wrong })), "\n");
    const lines = text.split("\n").length;
    const marked = new Set(this.diagnostics.map(({ line }) => line));
    this.gutter.replaceChildren(...Array.from({ length: lines }, (_, at) => h("div", { class: marked.has(at + 1) ? "wrong" : undefined }, String(at + 1))));
    this.follow();
  }

  follow() {
    this.back.scrollTop = this.text.scrollTop;
    this.back.scrollLeft = this.text.scrollLeft;
    this.gutter.scrollTop = this.text.scrollTop;
  }

  key(event, onrun) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      return onrun();
    }
    if (event.key === "Escape") {
      this.leaves = true;
      return;
    }
    const leaves = this.leaves;
    this.leaves = false;
    if (event.key === "Tab" && !leaves && !event.ctrlKey && !event.altKey) {
      event.preventDefault();
      this.indent(event.shiftKey);
    } else if (event.key === "Enter") {
      const before = this.value.slice(0, this.text.selectionStart);
      const line = before.slice(before.lastIndexOf("\n") + 1);
      const depth = line.match(/^ */)[0] + (/:\s*$/.test(line) && !this.sql ? "    " : "");
      if (depth) {
        event.preventDefault();
        this.type(`\n${depth}`);
      }
    }
  }

  /** Indents or outdents the selected lines, or types up to four spaces. */
  indent(isOut) {
    const { selectionStart: start, selectionEnd: end } = this.text;
    const text = this.value;
    if (start === end && !isOut) return this.type(" ".repeat(4 - ((start - text.lastIndexOf("\n", start - 1) - 1) % 4)));
    const from = text.lastIndexOf("\n", start - 1) + 1;
    const lines = text.slice(from, end).split("\n");
    const moved = lines.map((line) => (isOut ? line.replace(/^ {1,4}/, "") : `    ${line}`));
    this.text.setSelectionRange(from, end);
    this.type(moved.join("\n"));
    this.text.setSelectionRange(Math.max(from, start + moved[0].length - lines[0].length), from + moved.join("\n").length);
  }

  /** Types text so that undo knows it. */
  type(text) {
    this.text.focus();
    // The only way that keeps the browser's own undo history; browsers without it take the range text.
    if (!document.execCommand("insertText", false, text)) {
      const { selectionStart, selectionEnd } = this.text;
      this.text.setRangeText(text, selectionStart, selectionEnd, "end");
      this.text.dispatchEvent(new Event("input"));
    }
  }
}
