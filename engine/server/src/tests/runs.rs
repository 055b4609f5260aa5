use std::fs;
use std::io::Write;

use serde_json::json;

use super::*;

#[test]
fn a_run_is_shown_while_it_is_written_and_no_file_beside_the_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (runs, run) = (folder.path().join("runs"), folder.path().join("runs/a b"));
    fs::create_dir_all(run.join("report")).unwrap();
    fs::create_dir_all(runs.join("no run")).unwrap();
    let write = |name: &str, text: &str| fs::write(run.join(name), text).unwrap();
    write("metrics.jsonl", "{\"step\":0,\"eval_nDCG@10\":0.3}\n{\"step\":1,\"rew");
    fs::write(folder.path().join("metrics.jsonl"), "{\"secret\":1}\n").unwrap();
    let served = run_with(&runs);
    let get = |path: &str| served.client.get(path);

    let listed = get("/v1/runs").json();
    assert_eq!((listed["runs"][0]["name"].as_str(), listed["runs"].as_array().unwrap().len()), (Some("a b"), 1));
    let first = get("/v1/runs/a%20b/metrics").json();
    assert_eq!((&first["rows"], &first["from"]), (&json!([{ "step": 0, "eval_nDCG@10": 0.3 }]), &json!(0)));
    let mut file = fs::OpenOptions::new().append(true).open(run.join("metrics.jsonl")).unwrap();
    file.write_all(b"ard\":0.5}\n").unwrap();
    let next = format!("/v1/runs/a%20b/metrics?from={}", first["next"]);
    let second = get(&next).json();
    assert_eq!(second["rows"], json!([{ "step": 1, "reward": 0.5 }]));
    // It was resumed at an earlier step.
    write("metrics.jsonl", "{\"step\":9}\n");
    let again = get(&format!("/v1/runs/a%20b/metrics?from={}", second["next"])).json();
    assert_eq!((&again["from"], &again["rows"]), (&json!(0), &json!([{ "step": 9 }])));

    assert_eq!(get("/v1/runs/a%20b/samples").json(), json!({ "samples": [] }));
    let rows: String = (0..100).map(|n| format!("{{\"completion\":\"{n}\"}}\n")).collect();
    write("completions.jsonl", &format!("{rows}7\n{{\"half"));
    let samples = get("/v1/runs/a%20b/samples").json();
    assert_eq!(samples["samples"][0], json!({ "completion": "99" }));

    assert_eq!(get("/v1/runs/a%20b/report").status, 404);
    write("report/index.html", "<script>alert(1)</script>");
    let report = get("/v1/runs/a%20b/report");
    assert!(report.status == 200 && report.header("content-security-policy").unwrap().starts_with("sandbox"));

    for name in ["no%20run", "..", "%2e%2e", "a%20b%2f..%2f..", "%2fetc", "", ".", "a%20b%2f.", "nobody"] {
        for of in ["metrics", "samples", "report"] {
            let status = get(&format!("/v1/runs/{name}/{of}")).status;
            assert!(status == 404, "{name}/{of}: {status}");
        }
    }
    assert_eq!(get("/v1/runs/a%20b/metrics?from=-1").status, 400);
    assert_eq!(shop().client.get("/v1/runs").json(), json!({ "runs": [] }));
}

fn run_with(runs: &std::path::Path) -> Running {
    let config = ServerConfig { runs: Some(runs.to_owned()), ..config() };
    run(Service::new(config).unwrap().engine(engine("shop")).log_to(|_| {}))
}
