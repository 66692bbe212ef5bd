"""A session that ends while its page is open, after its hours or with its key: the page asks for a key where it stands,
and then sends again what was refused, so that nothing is lost of what a person has written.

It stands around the browser's own fetch, which Gradio's script makes every request with: so Gradio sees no refusal.
Knows the form that auth.py takes; knows no Gradio.
"""

from __future__ import annotations

HEAD = """
<style>
  #signed-out { position: fixed; inset: auto 1rem 1rem; z-index: 1000; box-sizing: border-box; max-width: 26rem;
                margin: 0 auto; padding: 1.25rem 1.5rem 1.5rem; border: 1px solid var(--border-color-primary);
                border-radius: 14px; background: var(--background-fill-primary); color: var(--body-text-color);
                font: 16px/1.5 system-ui, sans-serif; box-shadow: 0 .5rem 2.5rem #0006; }
  #signed-out h2 { margin: 0 0 .25rem; font-size: 1.1rem; font-weight: 650; }
  #signed-out p { margin: 0 0 1rem; font-size: .9rem; color: var(--body-text-color-subdued); }
  #signed-out label { display: block; margin-bottom: .35rem; font-size: .9rem; font-weight: 600; }
  #signed-out input, #signed-out button { box-sizing: border-box; width: 100%; padding: .6rem .75rem; font: inherit;
                                          border-radius: 9px; }
  #signed-out input { border: 1px solid var(--border-color-primary); background: var(--input-background-fill);
                      color: inherit; }
  #signed-out button { margin-top: .75rem; border: 0; background: #0f62fe; color: #fff; font-weight: 600;
                       cursor: pointer; }
  #signed-out :focus-visible { outline: 3px solid #3b76f0; outline-offset: 1px; }
  #signed-out [role=alert]:not(:empty) { margin: .75rem 0 0; color: #d5303e; }
  #signed-out [role=alert]:empty { margin: 0; }
  .dark #signed-out [role=alert] { color: #ff8389; }
</style>
<script>
(() => {
  const send = window.fetch.bind(window);
  let signingIn = null;

  const signIn = () => new Promise(signedIn => {
    const dialog = document.createElement("dialog");
    dialog.id = "signed-out";
    dialog.setAttribute("aria-labelledby", "signed-out-title");
    dialog.innerHTML = `<form>
      <h2 id="signed-out-title">You are signed out</h2>
      <p>Sign in again to go on: what you have just sent is not lost, but sent then.</p>
      <input type="text" name="username" value="user" autocomplete="username" hidden>
      <label for="signed-out-key">API key</label>
      <input id="signed-out-key" name="password" type="password" autocomplete="current-password" required autofocus>
      <button type="submit">Sign in</button>
      <p role="alert"></p>
    </form>`;
    const form = dialog.querySelector("form");
    const problem = dialog.querySelector("[role=alert]");
    form.addEventListener("submit", async event => {
      event.preventDefault();
      problem.textContent = "";
      const answer = await send("login", {method: "POST", body: new URLSearchParams(new FormData(form))})
        .catch(() => null);
      if (answer?.ok) {
        dialog.remove();
        signedIn();
      } else if (answer?.status === 401) {
        problem.textContent = "That is not the key of this server.";
      } else {
        problem.textContent = "The server does not answer. Try again in a moment.";
      }
    });
    document.body.append(dialog);
    // Not modal: the conversation can still be read and copied.
    dialog.show();
  });

  window.fetch = async (...request) => {
    let answer = await send(...request);
    while (answer.status === 401) {
      // One form for all that is refused meanwhile.
      signingIn ??= signIn().finally(() => { signingIn = null; });
      await signingIn;
      answer = await send(...request);
    }
    return answer;
  };
})();
</script>
"""
"""What stands in the page's head."""
