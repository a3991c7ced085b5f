/** Small helpers for the page's elements. */

export function byId<E extends HTMLElement = HTMLElement>(id: string): E {
  return document.getElementById(id) as E;
}

/** Makes an element with a class and children. */
export function make(tag: string, name: string, ...children: (Node | string)[]): HTMLElement {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...children);
  return element;
}

/** Sets text only if it changes, because of what screen readers announce. */
export function tell(element: HTMLElement, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

/** 93.1%; never 100.0% or 0.0% unless exact. */
export function percent(share: number): string {
  if (share > 0 && share < 0.0005) return 'under 0.1%';
  if (share < 1 && share > 0.9995) return 'over 99.9%';
  return `${(share * 100).toFixed(1)}%`;
}

/** 1 image, 1,000 images. */
export function counted(count: number, name: string): string {
  return `${count.toLocaleString('en')} ${name}${count === 1 ? '' : 's'}`;
}

export function madds(count: number): string {
  const millions = count / 1e6;
  return `${millions.toFixed(millions < 10 ? 2 : millions < 100 ? 1 : 0)} M`;
}

/** No more precise than a clock that moves in steps of `step` milliseconds. */
export function milliseconds(time: number, step: number): string {
  const digits = step < 1 ? 1 : 0;
  if (time < step) return `under ${step.toFixed(digits)} ms`;
  return `${time.toFixed(time < 100 ? digits : 0)} ms`;
}
