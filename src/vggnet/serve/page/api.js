// Requests to the server: what it refuses, and when it is busy.

const TRIES = 3; // automatic ones after a 503; then a button
const LONGEST = 30; // seconds that the page waits by itself

let key = "";

export const setKey = (value) => { key = value; };

export class Failure extends Error {
  /** status: HTTP's, or 0 where no answer came. */
  constructor(message, status) {
    super(message);
    this.status = status;
  }

  /** Whether the same request may succeed later. */
  get passes() {
    return this.status === 0 || this.status === 408 || this.status >= 500;
  }
}

/**
 * What the server answers, as JSON or a blob.
 *
 * onBusy(seconds, attempt, tries): called each second of waiting for a busy server, at last with 0.
 */
export async function ask(path, { query = {}, body, signal, as = "json", onBusy = () => {} } = {}) {
  const parameters = String(new URLSearchParams(query));
  const headers = {};
  if (body) headers["Content-Type"] = "application/octet-stream";
  if (body && key) headers.Authorization = `Bearer ${key}`;
  const address = parameters ? `${path}?${parameters}` : path;
  for (let attempt = 1; ; attempt++) {
    let response;
    try {
      response = await fetch(address, { method: body ? "POST" : "GET", headers, body, signal });
    } catch (error) {
      throw lost(error);
    }
    if (response.ok) return response[as]().catch((error) => { throw lost(error); });
    const wait = Number(response.headers.get("Retry-After")) || 2;
    if (response.status !== 503 || attempt > TRIES || wait > LONGEST) {
      throw new Failure(await reason(response), response.status);
    }
    for (let left = Math.ceil(wait); left > 0; left--) {
      onBusy(left, attempt, TRIES);
      await pause(1000, signal);
    }
    onBusy(0, attempt, TRIES);
  }
}

async function reason(response) {
  try {
    const { error } = await response.json();
    if (error) return error;
  } catch {
    // A proxy's page, perhaps: its status says more than its text.
  }
  return `The server answered ${response.status} ${response.statusText}`.trim() + ".";
}

function lost(error) {
  if (error.name === "AbortError") return error;
  return new Failure("No connection to the server. Is it still running?", 0);
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}
