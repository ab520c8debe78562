document.querySelectorAll("table.sortable th").forEach(function (th) {
  th.addEventListener("click", function () {
    var n = th.cellIndex, body = th.closest("table").tBodies[0], down = th.dataset.down !== "1";
    th.dataset.down = down ? "1" : "";
    var key = function (tr) {
      var td = tr.cells[n];
      return td.dataset.k === undefined ? null : Number(td.dataset.k);
    };
    Array.from(body.rows).sort(function (a, b) {
      var x = key(a), y = key(b), s = a.cells[n].textContent.localeCompare(b.cells[n].textContent);
      var c = x === null || y === null ? (x === y ? s : x === null ? 1 : -1) : x - y;
      return down ? c : -c;
    }).forEach(function (tr) { body.appendChild(tr); });
  });
});
