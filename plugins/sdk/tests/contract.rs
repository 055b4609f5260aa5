//! The SDK has a copy of the contract, so that the folder of a new plugin is complete. The copy must equal the host's.

use std::path::Path;

#[test]
fn the_sdks_copy_of_the_contract_is_the_hosts() {
    let (own, hosts) = (Path::new("wit"), Path::new("../../wit"));
    if !hosts.is_dir() {
        return; // This is a copy of the SDK in the folder of a plugin.
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
