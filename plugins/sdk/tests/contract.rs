//! The SDK carries the contract along, so that a new plugin's folder is complete. It must stay the one of the host.

use std::path::Path;

#[test]
fn the_sdks_contract_is_the_hosts() {
    let (own, hosts) = (Path::new("wit"), Path::new("../../wit"));
    if !hosts.is_dir() {
        return; // Copied into a plugin of its own.
    }
    let names = |folder: &Path| {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = entries.collect();
        names.sort();
        names
    };
    assert_eq!(names(own), names(hosts));
    for name in names(own) {
        let read = |folder: &Path| std::fs::read_to_string(folder.join(&name)).unwrap();
        assert!(read(own) == read(hosts), "{} differs: copy it from {}", name.display(), hosts.display());
    }
}
