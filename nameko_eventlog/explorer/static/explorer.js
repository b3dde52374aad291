"use strict";

// The page is whole without this file: it brings the reader's own time, copying, and following.

const SECONDS = 2;
const MOST_ROWS = 1000;

function showLocalTimes(root) {
  for (const one of root.querySelectorAll("time")) {
    const moment = new Date(one.dateTime);
    if (isNaN(moment)) continue;
    const pad = (number, length = 2) => String(number).padStart(length, "0");
    one.textContent =
      `${moment.getFullYear()}-${pad(moment.getMonth() + 1)}-${pad(moment.getDate())} ` +
      `${pad(moment.getHours())}:${pad(moment.getMinutes())}:${pad(moment.getSeconds())}` +
      `.${pad(moment.getMilliseconds(), 3)}`;
  }
}

function offerCopies() {
  for (const button of document.querySelectorAll(".copy")) {
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.querySelector(button.dataset.copy).innerText);
      button.textContent = "Copied";
    });
  }
}

function offerFollowing() {
  const button = document.getElementById("follow");
  if (!button) return;
  const said = document.getElementById("said");
  let timer = null;

  async function look() {
    try {
      const answer = await fetch(location.href);
      if (!answer.ok) throw new Error(`${answer.status}`);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      take(fresh);
      said.textContent = "";
    } catch (error) {
      said.textContent = `Not reached (${error.message}); trying again.`;
    }
    if (timer !== null) timer = setTimeout(look, SECONDS * 1000);
  }

  function take(fresh) {
    const newRows = fresh.getElementById("rows");
    if (!newRows) return;
    const rows = document.getElementById("rows");
    if (!rows) return location.reload();
    const unknown = [...newRows.children].filter((row) => !document.getElementById(row.id));
    for (const row of unknown.reverse()) {
      showLocalTimes(row);
      rows.prepend(document.adoptNode(row));
    }
    while (rows.children.length > MOST_ROWS) rows.lastElementChild.remove();
    const figure = fresh.querySelector(".histogram");
    if (figure && unknown.length && !document.querySelector(".histogram").contains(document.activeElement)) {
      showLocalTimes(figure);
      document.querySelector(".histogram").replaceWith(document.adoptNode(figure));
    }
  }

  button.hidden = false;
  button.addEventListener("click", () => {
    const follows = timer === null;
    button.setAttribute("aria-pressed", String(follows));
    button.textContent = follows ? "Pause" : "Follow";
    if (follows) {
      timer = 0;
      look();
    } else {
      clearTimeout(timer);
      timer = null;
    }
  });
}

document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/^(INPUT|TEXTAREA)$/.test(event.target.tagName)) {
    event.preventDefault();
    const details = document.querySelector(".filters details");
    if (details) details.open = true;
    (document.querySelector("input[name=text]") || document.querySelector("input")).focus();
  }
});

showLocalTimes(document);
offerCopies();
offerFollowing();
