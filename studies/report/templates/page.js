(() => {
  const root = document.documentElement;
  const buttons = [...document.querySelectorAll('button[data-show]')];
  const bar = document.querySelector('.tools');
  const points = [...document.querySelectorAll('details.point')];

  const show = (kind) => {
    root.dataset.show = kind;
    for (const button of buttons) button.setAttribute('aria-pressed', String(button.dataset.show === kind));
  };

  for (const button of buttons) button.addEventListener('click', () => show(button.dataset.show));
  if (bar) bar.hidden = false;

  const fold = document.querySelector('#fold');
  const nameFold = () => { fold.textContent = points.every((point) => point.open) ? 'Close all' : 'Open all'; };
  if (fold) {
    fold.addEventListener('click', () => {
      const open = !points.every((point) => point.open);
      for (const point of points) point.open = open;
    });
    for (const point of points) point.addEventListener('toggle', nameFold);
    nameFold();
  }

  // While the study runs, the page reloads itself; training runs that were open stay open.
  const opened = 'opened ' + location.pathname;
  if (root.hasAttribute('data-refreshes')) {
    const ids = JSON.parse(sessionStorage.getItem(opened) || '[]');
    for (const point of points) point.open = point.open || ids.includes(point.id);
    setTimeout(() => {
      sessionStorage.setItem(opened, JSON.stringify(points.filter((point) => point.open).map((point) => point.id)));
      location.reload();
    }, 10000);
  }

  // A link in a table opens the training run that it leads to.
  const openTarget = () => {
    const target = location.hash ? document.getElementById(location.hash.slice(1)) : null;
    if (target && target.matches('details')) {
      target.open = true;
      target.scrollIntoView();
    }
  };
  addEventListener('hashchange', openTarget);
  openTarget();
})();
