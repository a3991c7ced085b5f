/** The coefficients of a photo: a row for each layer, a cell for each basis. */

import type { Coefficients } from './messages';
import { byId, make, percent, tell } from './page';

let shown: Coefficients;

export function prepareCoefficients(): void {
  byId<HTMLDetailsElement>('numbers').addEventListener('toggle', showNumbers);
}

export function showCoefficients(coefficients: Coefficients, early: boolean): void {
  shown = coefficients;
  const { values, layers, bases } = coefficients;
  byId('coefficients').hidden = false;
  tell(byId('blend'), `${layers} ${layers === 1 ? 'layer' : 'layers'} of ${bases} bases each, `
    + `blended by these weights${early ? ' if it is asked' : ''}.`);

  const most = values.reduce((a, b) => Math.max(a, b), 0);
  const heat = byId('heat');
  heat.style.setProperty('--layers', String(layers));
  heat.style.setProperty('--bases', String(bases));
  heat.replaceChildren(...Array.from(values, (value, i) => {
    const cell = make('span', '');
    cell.style.setProperty('--weight', String(Math.max(value, 0) / most));
    cell.title = `layer ${Math.floor(i / bases) + 1}, basis ${i % bases + 1}: ${value.toFixed(3)}`;
    return cell;
  }));
  heat.ariaLabel = described(coefficients);
  tell(byId('heat-legend'), `Rows are layers from first to last, columns are bases; the strongest `
    + `weight is ${most.toFixed(2)}. Alike for all would be ${(1 / bases).toFixed(2)}.`);
  showNumbers();
}

/** In words: how far from uniform, and the strongest weight. */
function described({ values, layers, bases }: Coefficients): string {
  const best = values.reduce((most, value, i) => (value > values[most] ? i : most), 0);
  const leaders = Array.from({ length: layers }, (_, layer) => {
    const row = values.subarray(layer * bases, (layer + 1) * bases);
    return row.indexOf(Math.max(...row)) + 1;
  });
  const used = new Set(leaders).size;
  return `Heat map of ${layers} by ${bases} coefficients. The largest is ${percent(values[best])}, `
    + `of basis ${best % bases + 1} in layer ${Math.floor(best / bases) + 1}; `
    + `${used === 1 ? `basis ${leaders[0]} leads` : `${used} bases lead`} in the layers. `
    + `The table below has the numbers.`;
}

function showNumbers(): void {
  // Some networks have a thousand: they are written only on request.
  if (!shown || !byId<HTMLDetailsElement>('numbers').open) return;
  const { values, layers, bases } = shown;
  const heading = (text: string, scope: string) => {
    const cell = make('th', '', text);
    cell.setAttribute('scope', scope);
    return cell;
  };
  const head = make('tr', '', heading('layer', 'col'),
    ...Array.from({ length: bases }, (_, basis) => heading(`basis ${basis + 1}`, 'col')));
  const rows = Array.from({ length: layers }, (_, layer) =>
    make('tr', '', heading(String(layer + 1), 'row'),
      ...Array.from(values.subarray(layer * bases, (layer + 1) * bases),
        (value) => make('td', '', value.toFixed(3)))));
  byId('numbers').querySelector('table')!.replaceChildren(
    make('thead', '', head), make('tbody', '', ...rows));
}
