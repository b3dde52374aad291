"use strict";

// The pages work without this file. It adds local times, copying, keyboard shortcuts and following.

const SECONDS = 2;
const MOST_ROWS = 1000;

function showLocalTimes(root) {
  const pad = (number, length = 2) => String(number).padStart(length, "0");
  for (const one of root.querySelectorAll("time")) {
    const moment = new Date(one.dateTime);
    if (isNaN(moment)) continue;
    const day = document.createElement("span");
    day.textContent = `${moment.getFullYear()}-${pad(moment.getMonth() + 1)}-${pad(moment.getDate())}`;
    one.replaceChildren(
      day,
      ` ${pad(moment.getHours())}:${pad(moment.getMinutes())}` +
        (one.className === "minute"
          ? ""
          : `:${pad(moment.getSeconds())}.${pad(moment.getMilliseconds(), 3)}`),
    );
  }
}

function showZone() {
  const { timeZone } = Intl.DateTimeFormat().resolvedOptions();
  if (!timeZone) return;
  document.getElementById("zone").textContent = `Times are in ${timeZone}; times with a Z, and in tooltips, are UTC.`;
  for (const one of document.querySelectorAll(".whose")) one.textContent = timeZone;
}

function offerCopies() {
  for (const button of document.querySelectorAll(".copy")) {
    if (!navigator.clipboard) continue; // over plain HTTP from another machine
    const label = button.textContent;
    const announcement = document.getElementById("announcement");
    button.hidden = false;
    button.addEventListener("click", async () => {
      announcement.textContent = "";
      try {
        const { copy, copyFrom } = button.dataset;
        await navigator.clipboard.writeText(copy ?? (await (await load(copyFrom)).text()));
        button.textContent = "Copied";
      } catch {
        button.textContent = "Not copied";
      }
      announcement.textContent = button.textContent;
      setTimeout(() => (button.textContent = label), 1500);
    });
  }
}

async function load(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
  return answer;
}

function offerFollowing() {
  const button = document.getElementById("follow");
  if (!button) return;
  const status = document.getElementById("follow-status");
  let round = null; // a new object each time the button is pressed

  async function refresh(mine) {
    if (round !== mine) return;
    if (!document.hidden) {
      try {
        const text = await (await load(location.href)).text();
        if (round !== mine) return;
        take(new DOMParser().parseFromString(text, "text/html"));
        status.textContent = "";
      } catch (error) {
        if (round === mine) status.textContent = `Server not reached (${error.message}); trying again.`;
      }
    }
    setTimeout(refresh, SECONDS * 1000, mine);
  }

  button.hidden = false;
  button.addEventListener("click", () => {
    round = round === null ? {} : null;
    button.setAttribute("aria-pressed", String(round !== null));
    button.textContent = round ? "Following" : "Follow";
    button.title = round ? "Pause" : "Show new event logs";
    status.textContent = "";
    if (round) refresh(round);
  });
}

// Update this page from a fresh copy.
function take(fresh) {
  const newRows = fresh.getElementById("rows");
  if (!newRows) return;
  showLocalTimes(fresh);
  // the histogram is counted at another moment than the rows, and may lag behind them
  const isNew = takeRows(fresh, newRows) || counts(fresh) !== counts(document);
  const figure = document.querySelector(".histogram");
  if (isNew && !figure.contains(document.activeElement)) figure.replaceWith(fresh.querySelector(".histogram"));
}

function counts(page) {
  return [...page.querySelectorAll(".histogram strong, .histogram .legend b")].map((one) => one.textContent).join();
}

// Add rows that are new, and keep the others. Return whether there were new ones.
function takeRows(fresh, newRows) {
  const rows = document.getElementById("rows");
  const here = new Map([...(rows ? rows.children : [])].map((row) => [row.id, row]));
  const arrived = [...newRows.children].filter((row) => !here.has(row.id));
  if (!arrived.length) return false;
  for (const row of arrived) row.classList.add("fresh");
  const more = "a[rel=next]";
  const isBeyond = fresh.querySelector(more) && !document.querySelector(more);
  if (arrived.length === newRows.children.length || isBeyond) {
    // there may be other rows between the new and the old ones, or after them
    document.getElementById("results").replaceChildren(...fresh.getElementById("results").childNodes);
  } else {
    let next = rows.firstElementChild;
    for (const row of [...newRows.children]) {
      if (next && row.id === next.id) next = next.nextElementSibling;
      else if (!here.has(row.id)) rows.insertBefore(row, next);
    }
    if (rows.children.length > MOST_ROWS) {
      while (rows.children.length > MOST_ROWS) rows.lastElementChild.remove();
      // this may repeat rows, but leaves none out
      document.querySelector(more)?.replaceWith(...fresh.querySelectorAll(more));
    }
  }
  return true;
}

function offerKeys() {
  const keys = document.getElementById("keys");
  const on = document.getElementById("keys-on");
  keys.hidden = false;
  try {
    on.checked = localStorage.getItem("keys") !== "off";
    on.addEventListener("change", () => localStorage.setItem("keys", on.checked ? "on" : "off"));
  } catch {
    // without storage, shortcuts are on for each page
  }

  function step(by) {
    const links = [...document.querySelectorAll("#rows .time a, .waterfall .call a")];
    const at = links.findIndex((link) => link.closest("tr, li").contains(document.activeElement));
    links[Math.max(0, at < 0 ? 0 : Math.min(at + by, links.length - 1))]?.focus();
  }

  const actions = {
    "/": () => (document.querySelector("input[name=text]") || document.querySelector("input")).focus(),
    j: () => step(1),
    k: () => step(-1),
    f: () => document.getElementById("follow")?.click(),
    "?": () => {
      keys.open = !keys.open;
      if (keys.open) keys.querySelector("summary").focus();
    },
  };
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.matches("input:not([type=checkbox]), textarea");
    if (!on.checked || isTyping || event.ctrlKey || event.altKey || event.metaKey) return;
    if (!Object.hasOwn(actions, event.key)) return;
    event.preventDefault();
    actions[event.key]();
  });
}

// A typed time without an offset is in the time zone of the page.
function withZone(text) {
  if (!/^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?)?$/.test(text)) return text;
  const moment = new Date(text.length > 10 ? text.replace(" ", "T") : `${text}T00:00`);
  return isNaN(moment) ? text : moment.toISOString().replace(".000Z", "Z");
}

// Leave empty fields out of the URL, so that it is short enough to share.
function omitEmptyFields() {
  const form = document.querySelector(".search, .range-form");
  if (!form) return;
  form.addEventListener("submit", () => {
    for (const field of form.elements) {
      if (["since", "until"].includes(field.name)) field.value = withZone(field.value.trim());
      if (field.name && !field.value.trim()) field.disabled = true;
    }
  });
  addEventListener("pageshow", () => {
    for (const field of form.elements) field.disabled = false;
  });
}

showLocalTimes(document);
showZone();
offerCopies();
offerFollowing();
offerKeys();
omitEmptyFields();
