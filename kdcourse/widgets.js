// The temperature slider. The table in the page is its state at T = 1; this adds the control.
for (const box of document.querySelectorAll(".kd-temp")) {
  const { teacher, student } = JSON.parse(box.querySelector("script").textContent);
  const input = box.querySelector("input");
  const [temperature, entropy, norm, scaled] = box.querySelectorAll("[role=status] b");
  const rows = [...box.querySelectorAll("tbody tr")].map((row) => row.querySelectorAll("td"));

  const softmax = (logits, T) => {
    const top = Math.max(...logits);
    const powers = logits.map((z) => Math.exp((z - top) / T));
    const sum = powers.reduce((a, b) => a + b);
    return powers.map((value) => value / sum);
  };
  const number = (x) =>
    (x === 0 || Math.abs(x) >= 0.001 ? x.toFixed(3) : x.toExponential(1)).replaceAll("-", "−");

  const show = () => {
    const T = 2 ** input.value;
    const p = softmax(teacher, T);
    const q = softmax(student, T);
    const gradient = q.map((value, k) => (value - p[k]) / T);
    const length = Math.hypot(...gradient);
    rows.forEach((cells, k) => {
      [p[k], q[k], gradient[k]].forEach((x, column) => {
        cells[column].textContent = number(x);
        if (column < 2) cells[column].style.setProperty("--p", x.toFixed(4));
      });
    });
    temperature.textContent = T.toFixed(2);
    entropy.textContent = number(-p.reduce((sum, x) => sum + (x ? x * Math.log(x) : 0), 0) || 0);
    norm.textContent = number(length);
    scaled.textContent = number(T * T * length);
    input.setAttribute("aria-valuetext", `T = ${T.toFixed(2)}`);
  };
  input.addEventListener("input", show);
  input.closest("[hidden]").hidden = false;
  show();
}
