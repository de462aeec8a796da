// What is being edited, and its history. Knows neither the page nor what a drawing holds: `kind` brings parse(text),
// serialize(value) and empty(). Both canvases (highlights, saliency blobs) are an Editor with a stage and panels.

const HISTORY = 100;

export class Editor {
  /** kind: { parse, serialize, empty }; view: settings that are not part of the drawing (tool, width, ...). */
  constructor(kind, view) {
    this.kind = kind;
    this.view = view;
    this.value = kind.empty();
    this.problem = null; // { text, message } while the loaded text cannot be read; the text is then kept as it is
    this.texts = new WeakMap(); // of values that were loaded: a text in another layout stays as it is until it is edited
    this.gesture = null; // what the pointer is in the middle of; its draft is not part of the value
    this.past = [];
    this.future = [];
    this.listeners = new Set();
    this.onEdit = () => {};
  }

  /** The drawing as text, without what the pointer is in the middle of. */
  get text() {
    return this.problem ? this.problem.text : this.textOf(this.value);
  }

  textOf(value) {
    return this.texts.get(value) ?? this.kind.serialize(value);
  }

  /** Takes a text from outside (load, host undo, paste). Our own text, handed back, changes nothing. */
  load(text) {
    text = typeof text === "string" ? text : JSON.stringify(text ?? "");
    if (text === this.text) return;
    this.gesture = null;
    if (this.jump(text)) return;
    this.past = [];
    this.future = [];
    try {
      this.value = this.kind.parse(text);
      this.problem = null;
      this.texts.set(this.value, text);
    } catch (error) {
      this.value = this.kind.empty();
      this.problem = { text, message: error.message };
    }
    this.notify("value");
  }

  /** Where the text is a state of our own history (the host undid our edit), goes there and keeps the history. */
  jump(text) {
    const here = (value) => this.textOf(value) === text;
    const steps = [[this.past, this.future], [this.future, this.past]];
    for (const [from, to] of this.problem ? [] : steps) {
      const at = from.findLastIndex(here);
      if (at < 0) continue;
      while (from.length > at) {
        to.push(this.value);
        this.value = from.pop();
      }
      this.notify("value");
      return true;
    }
    return false;
  }

  /** Gives up a text that cannot be read. */
  startAfresh() {
    if (!this.problem) return;
    this.problem = null;
    this.notify("value");
    this.onEdit(this.text);
  }

  /** One step of the history: `value` is the drawing from now on. */
  edit(value, view = {}) {
    if (this.problem || value === this.value) return;
    this.past.push(this.value);
    if (this.past.length > HISTORY) this.past.shift();
    this.future = [];
    this.replace(value, view);
  }

  undo() {
    if (!this.gesture && this.past.length) {
      this.future.push(this.value);
      this.replace(this.past.pop());
    }
  }

  redo() {
    if (!this.gesture && this.future.length) {
      this.past.push(this.value);
      this.replace(this.future.pop());
    }
  }

  replace(value, view = {}) {
    this.value = value;
    Object.assign(this.view, { selection: null }, view);
    this.notify("value");
    this.onEdit(this.text);
  }

  /** Changes settings that are not part of the drawing. */
  set(view) {
    if ("tool" in view) this.gesture = null;
    Object.assign(this.view, view);
    this.notify("view");
  }

  /** Ends what the pointer is in the middle of without a trace. */
  cancel() {
    if (!this.gesture) return;
    this.gesture = null;
    this.notify("view");
  }

  /** A word for the person, read out by screen readers too. */
  say(message) {
    this.notify("say", message);
  }

  /** listener(what, detail): "value", "view", "say" or "sheet" (show the shortcuts). -> a function that ends it. */
  listen(listener) {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  notify(what, detail) {
    for (const listener of this.listeners) listener(what, detail);
  }
}
