//! The page in Debian's Chromium: `./setup.sh --browser`, `cargo test -p hyc-tests --test view -- --ignored`.
//!
//! Chromium is driven through a pair of pipes (`--remote-debugging-pipe`): JSON, each message ended by a zero.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{FULL, LARGE, TINY, page};

/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(60);

struct Browser {
    child: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    calls: u64,
    session: Option<String>,
    /// What happened meanwhile: exceptions, requests.
    events: Vec<Value>,
}

impl Browser {
    fn start(folder: &Path) -> Browser {
        let profile = folder.join("profile");
        // Descriptors 3 and 4 are the protocol's; a shell moves them there.
        let command = format!(
            "exec chromium --headless=new --no-sandbox --disable-gpu --user-data-dir={} --remote-debugging-pipe \
             3<&0 4>&1 </dev/null >/dev/null 2>&1",
            profile.display()
        );
        let mut child = Command::new("sh")
            .args(["-c", &command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let (to, out) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, from) = channel();
        std::thread::spawn(move || {
            let messages = BufReader::new(out).split(0);
            let parsed = messages.map_while(Result::ok).filter_map(|m| serde_json::from_slice(&m).ok());
            parsed.map_while(|message| sender.send(message).ok()).for_each(drop);
        });
        let mut browser = Browser { child, to, from, calls: 0, session: None, events: vec![] };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach);
        browser.session = attached["sessionId"].as_str().map(String::from);
        for domain in ["Page", "Runtime", "Log", "Network", "Accessibility"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.calls += 1;
        let mut message = json!({ "id": self.calls, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        self.to.write_all(format!("{message}\0").as_bytes()).expect("chromium listens");
        loop {
            let answer = self.from.recv_timeout(PATIENCE).expect("chromium answers: is it installed?");
            if answer["id"] == self.calls {
                assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return answer["result"].clone();
            }
            self.events.push(answer);
        }
    }

    /// The value of an expression in the page.
    fn eval(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let result = self.call("Runtime.evaluate", params);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {}", result["exceptionDetails"]);
        result["result"]["value"].clone()
    }

    fn open(&mut self, address: &str) {
        // Through a blank page: the same file with another fragment would not be loaded anew.
        self.call("Page.navigate", json!({ "url": "about:blank" }));
        self.call("Page.navigate", json!({ "url": address }));
        let start = Instant::now();
        while self.eval("location.href !== 'about:blank' && document.readyState") != "complete" {
            assert!(start.elapsed() < PATIENCE, "{address} does not load");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.settle();
    }

    fn width(&mut self, width: u32) {
        let metrics = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", metrics);
    }

    fn press(&mut self, key: &str) {
        let text = if key.len() == 1 { key } else { "" };
        let down = if text.is_empty() { "rawKeyDown" } else { "keyDown" };
        self.call("Input.dispatchKeyEvent", json!({ "type": down, "key": key, "text": text }));
        self.call("Input.dispatchKeyEvent", json!({ "type": "keyUp", "key": key }));
        self.settle();
    }

    /// Lets the page's own events run: what a change of the address brings comes behind two frames.
    fn settle(&mut self) {
        self.eval("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 30)))");
    }

    fn type_text(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
        self.settle();
    }

    /// Exceptions, refused code and requests that leave the machine.
    fn faults(&self) -> Vec<String> {
        let told = |event: &Value| {
            let url = event["params"]["request"]["url"].as_str().unwrap_or_default();
            let bad = match event["method"].as_str()? {
                "Runtime.exceptionThrown" | "Log.entryAdded" => true,
                "Network.requestWillBeSent" => !url.starts_with("file:") && url != "about:blank",
                _ => false,
            };
            bad.then(|| event.to_string())
        };
        self.events.iter().filter_map(told).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const PANEL: &str =
    "document.getElementById('panel').hidden ? '' : document.getElementById('shown').innerText";

#[test]
#[ignore = "needs Chromium: ./setup.sh --browser"]
fn the_page_works_in_a_browser() {
    let folder = tempfile::tempdir().unwrap();
    let mut browser = Browser::start(folder.path());
    for (name, args) in
        [("tiny", vec![TINY]), ("large", vec![LARGE]), ("compared", vec![LARGE, "--compare", FULL])]
    {
        let file = folder.path().join(format!("{name}.html"));
        std::fs::write(&file, page(&args)).unwrap();
        let address = format!("file://{}", file.display());
        browser.width(1400);
        browser.open(&address);
        named(&mut browser);
        keyboard(&mut browser);
        filters(&mut browser);
        narrow(&mut browser);
        if name == "large" {
            let nodes = browser.eval("document.querySelectorAll('*').length");
            assert!(nodes.as_u64().is_some_and(|n| n < 6000), "{nodes}");
            deep_links(&mut browser, &address);
        }
        let printed = browser.call("Page.printToPDF", json!({}));
        assert!(printed["data"].as_str().is_some_and(|data| data.len() > 10_000));
        assert!(browser.faults().is_empty(), "{name}: {:?}", browser.faults());
    }
    // What is looked for would be seen.
    browser.eval("setTimeout(() => { throw new Error('seen'); }, 0)");
    browser.eval("void fetch('https://example.org/').catch(() => 0)");
    browser.settle();
    let faults = browser.faults();
    assert!(faults.iter().any(|fault| fault.contains("seen")), "{faults:?}");
    assert!(faults.iter().any(|fault| fault.contains("example.org")), "{faults:?}");
}

/// Whoever listens to the page hears a name for all that can be used.
fn named(browser: &mut Browser) {
    let tree = browser.call("Accessibility.getFullAXTree", json!({}));
    let nodes = tree["nodes"].as_array().expect("a tree");
    let used = ["link", "button", "searchbox", "textbox", "slider", "DisclosureTriangle", "image", "region"];
    let mut seen = 0;
    for node in nodes.iter().filter(|node| node["ignored"] != true) {
        let role = node["role"]["value"].as_str().unwrap_or_default();
        if used.contains(&role) {
            seen += 1;
            let name = node["name"]["value"].as_str().unwrap_or_default();
            assert!(!name.trim().is_empty(), "a {role} without a name: {node}");
        }
    }
    assert!(seen > 30, "{seen}");
}

fn keyboard(browser: &mut Browser) {
    browser.press("/");
    assert_eq!(browser.eval("document.activeElement.id"), "search");
    browser.type_text("L1. attn");
    let first = browser.eval("document.querySelector('#hits a').textContent");
    assert!(first.as_str().unwrap_or_default().contains("L1.attn"), "{first}");
    browser.press("ArrowDown");
    assert_eq!(browser.eval("document.activeElement.textContent"), first);
    browser.press("ArrowUp");
    assert_eq!(browser.eval("document.activeElement.id"), "search");
    browser.press("Enter");
    let shown = browser.eval(PANEL);
    assert!(shown.as_str().unwrap_or_default().contains("L1.attn"), "{shown}");
    browser.press("Escape");
    assert_eq!(browser.eval(PANEL), "");
    assert_eq!(browser.eval("location.hash"), "");
    // From the strip, layer by layer.
    browser.eval("document.querySelector('.strip a').focus()");
    browser.press("ArrowRight");
    assert_eq!(browser.eval("location.hash"), "#L1");
    browser.press("ArrowRight");
    let shown = browser.eval(PANEL);
    assert!(shown.as_str().unwrap_or_default().starts_with("Layer 2"), "{shown}");
    let ring = browser.eval("getComputedStyle(document.activeElement.querySelector('rect')).strokeWidth");
    assert_eq!(ring, "3px", "what has the focus shows it");
    browser.press("Escape");
}

fn filters(browser: &mut Browser) {
    let lines = "document.getElementById('step-lines').textContent.trim().split('\\n').length";
    let all = browser.eval(lines).as_u64().expect("a number");
    browser.eval("document.getElementById('filter').focus()");
    browser.type_text("L1.");
    let kept = browser.eval(lines).as_u64().expect("a number");
    assert!(0 < kept && kept < all, "{kept} of {all}");
    assert_eq!(browser.eval("document.getElementById('all-steps').open"), true);
    browser.eval("filter.value = ''; filter.dispatchEvent(new Event('input'))");
    assert_eq!(browser.eval(lines).as_u64(), Some(all));
    // Bytes follow the context: a page of tokens more, a page of each cache more.
    let bytes = "document.querySelector('#memory .moving').textContent";
    let before = browser.eval(bytes);
    browser.eval("context.value = 20; context.dispatchEvent(new Event('input'))");
    assert_ne!(browser.eval(bytes), before);
    assert_eq!(browser.eval("document.querySelector('#context-is').textContent"), "1,048,576 tokens");
    let row = "[...document.querySelectorAll('#memory table tr')][1].children";
    assert_eq!(browser.eval(&format!("{row}[6].textContent === {row}[7].textContent")), true);
}

/// Nothing but boxes of their own scrolls sideways.
fn narrow(browser: &mut Browser) {
    browser.width(400);
    browser.eval("document.querySelectorAll('details').forEach((one) => { one.open = true; })");
    browser.settle();
    let widths = browser.eval("[document.documentElement.scrollWidth, document.documentElement.clientWidth]");
    assert_eq!(widths[0], widths[1]);
    browser.eval("location.hash = '#L1.attn'");
    browser.settle();
    let widths = browser.eval("[document.documentElement.scrollWidth, document.documentElement.clientWidth]");
    assert_eq!(widths[0], widths[1], "with the panel");
    browser.width(1400);
}

fn deep_links(browser: &mut Browser, address: &str) {
    browser.open(&format!("{address}#L12.sel"));
    let shown = browser.eval(PANEL);
    assert!(shown.as_str().unwrap_or_default().contains("fuse-topk made it of attention"), "{shown}");
    let marked = browser.eval("document.querySelectorAll('[data-v].marked').length");
    assert_eq!(marked, 5, "four ops and what became of them");
    // From the op to its pass: what is marked stays.
    browser.eval("document.querySelector('#shown .made a').click()");
    browser.settle();
    assert_eq!(browser.eval("document.getElementById('pass.fuse-topk').open"), true);
    assert_eq!(browser.eval("document.querySelectorAll('[data-v].marked').length"), 5);
    // A line of the timeline leads to the op that it became.
    browser.eval("document.querySelector('[data-v=\"3:L1.window\"]').click()");
    browser.settle();
    let shown = browser.eval(PANEL);
    assert!(shown.as_str().unwrap_or_default().contains("fuse-branches made it of"), "{shown}");
    browser.open(&format!("{address}#L12"));
    let shown = browser.eval(PANEL);
    assert!(shown.as_str().unwrap_or_default().contains("read by layers 12–23"), "{shown}");
    assert_eq!(browser.eval("document.querySelectorAll('.strip a.near').length"), 11);
    browser.open(&format!("{address}#pass.plan-kv"));
    assert_eq!(browser.eval("document.getElementById('pass.plan-kv').open"), true);
    browser.open(&format!("{address}#%22%3E%3Cimg"));
    assert_eq!(browser.eval(PANEL), "");
}
