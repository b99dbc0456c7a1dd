use super::*;
use proptest::prelude::*;
use serde_json::json;

fn disk(name: &str, size: u64) -> Disk {
    Disk { name: name.to_owned(), size, ..Disk::default() }
}

/// A machine with a system SSD, two large spinning disks and a small USB stick.
fn rack() -> Vec<Disk> {
    vec![
        Disk {
            model: Some("ST1000NM0033-9ZM".into()),
            rotational: true,
            wwn: Some("0x5000c500658a3fd2".into()),
            serial: Some("Z1W4AB12".into()),
            vendor: Some("ATA".into()),
            hctl: Some("0:0:0:0".into()),
            by_path: Some("/dev/disk/by-path/pci-0000:00:1f.2-ata-1.0".into()),
            tran: Some("sata".into()),
            ..disk("/dev/sda", 1_000_204_886_016)
        },
        Disk { rotational: true, serial: Some("Z1W4CD34".into()), ..disk("/dev/sdb", 2_000_398_934_016) },
        Disk {
            model: Some("INTEL SSDSC2BB24".into()),
            serial: Some(String::new()),
            ..disk("/dev/sdc", 240_057_409_536)
        },
        disk("/dev/sdd", 2_000_000_000),
    ]
}

fn chosen(hints: Value) -> Result<String, String> {
    select_root(&rack(), Some(&hints)).map(|disk| disk.name.clone()).map_err(|error| error.to_string())
}

#[track_caller]
fn check(hints: Value, wanted: &str) {
    assert_eq!(chosen(hints.clone()).as_deref(), Ok(wanted), "{hints}");
}

#[track_caller]
fn check_none(hints: Value) {
    assert!(chosen(hints.clone()).is_err_and(|error| error.starts_with("no suitable device")), "{hints}");
}

#[track_caller]
fn check_invalid(hints: Value, wanted: &str) {
    let error = chosen(hints.clone()).unwrap_err();
    assert!(error.contains(wanted) && !error.starts_with("no suitable"), "{hints}: {error}");
}

#[test]
fn without_hints_the_smallest_of_at_least_4_gib_is_chosen() {
    let rack = rack();
    for none in [None, Some(Value::Null), Some(json!({}))] {
        assert_eq!(select_root(&rack, none.as_ref()).unwrap().name, "/dev/sdc");
    }
    let twins = [disk("/dev/sdb", SMALLEST_ROOT), disk("/dev/sda", SMALLEST_ROOT)];
    assert_eq!(select_root(&twins, None).unwrap().name, "/dev/sda");
    let small = [disk("/dev/sda", SMALLEST_ROOT - 1)];
    let error = select_root(&small, None).unwrap_err();
    assert_eq!(error, HintError::TooSmall { disks: "/dev/sda (4294967295 bytes)".into() });
    assert!(matches!(select_root(&[], None), Err(HintError::TooSmall { .. })));
}

#[test]
fn strings_compare_lower_cased_and_whole() {
    check(json!({"model": "st1000nm0033-9zm"}), "/dev/sda");
    check(json!({"model": "INTEL SSDSC2BB24"}), "/dev/sdc");
    check(json!({"model": "s== intel ssdsc2bb24"}), "/dev/sdc");
    check_none(json!({"model": "INTEL"}));
    check(json!({"model": "<in> INTEL"}), "/dev/sdc");
    check(json!({"name": "<or> /dev/sdx <or> /dev/sdb"}), "/dev/sdb");
    check(json!({"name": "s!= /dev/sda"}), "/dev/sdb");
    check(json!({"name": "s> /dev/sda"}), "/dev/sdb");
    check(json!({"name": "s>= /dev/sdb"}), "/dev/sdb");
    check(json!({"name": "s< /dev/sdb"}), "/dev/sda");
    check(json!({"hctl": "0:0:0:0"}), "/dev/sda");
    check(json!({"by_path": "<in> ata-1"}), "/dev/sda");
    check(json!({"tran": "SATA"}), "/dev/sda");
}

#[test]
fn an_absent_attribute_is_none_and_an_empty_one_matches_nothing() {
    check(json!({"wwn": "none"}), "/dev/sdb");
    check(json!({"serial": "s!= z1w4ab12"}), "/dev/sdb");
    check(json!({"serial": "s!= z1w4ab12", "name": "s> /dev/sdb"}), "/dev/sdd");
}

#[test]
fn a_size_is_a_fraction_of_gib() {
    check_none(json!({"size": 931}));
    check(json!({"size": ">= 931"}), "/dev/sda");
    check(json!({"size": "= 1000"}), "/dev/sdb");
    check(json!({"size": "> 1000"}), "/dev/sdb");
    check(json!({"size": "<= 931"}), "/dev/sdc");
    check(json!({"size": "< 224"}), "/dev/sdc");
    check(json!({"size": "!= 931"}), "/dev/sda");
    check_none(json!({"size": "<or> 931 <or> 932"}));
    let whole = [disk("/dev/vda", 20 << 30)];
    assert_eq!(select_root(&whole, Some(&json!({"size": 20}))).unwrap().name, "/dev/vda");
    assert_eq!(select_root(&whole, Some(&json!({"size": "== 20"}))).unwrap().name, "/dev/vda");
}

#[test]
fn all_hints_have_to_hold_for_one_disk() {
    check(json!({"rotational": false, "size": ">= 100"}), "/dev/sdc");
    check(json!({"rotational": "yes", "size": "> 1000"}), "/dev/sdb");
    check_none(json!({"rotational": false, "name": "/dev/sda"}));
}

#[test]
fn bad_hints_are_named() {
    check_invalid(json!({"colour": "red"}), "\"colour\" is not known");
    check_invalid(json!({"size": 0}), "positive");
    check_invalid(json!({"size": "-5"}), "positive");
    check_invalid(json!({"size": "big"}), "integer");
    check_invalid(json!({"size": 1.5}), "integer");
    check_invalid(json!({"size": "<range-in> [ 1 10 ]"}), "integer");
    check_invalid(json!({"size": true}), "integer");
    check_invalid(json!({"model": 5}), "must be a string");
    check_invalid(json!({"model": "  "}), "empty");
    check_invalid(json!({"model": "<all-in> a b"}), "<all-in>");
    check_invalid(json!({"model": ">= a"}), "compares numbers");
    check_invalid(json!({"model": "<in>"}), "nothing behind its operator");
    check_invalid(json!({"size": ">= "}), "nothing behind its operator");
    check_invalid(json!({"size": "<in> 10"}), "on a size");
    check_invalid(json!({"rotational": "perhaps"}), "true or false");
    check_invalid(json!(["/dev/sda"]), "must be an object");
}

#[test]
fn skipped_devices_are_left_out_and_volume_names_are_not_disks() {
    let skip = json!([{"name": "/dev/sdc"}, {"volume_name": "data"}, {"size": "< 4"}]);
    let left = without_skipped(rack(), Some(&skip)).unwrap();
    assert_eq!(left.iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>(), ["/dev/sda", "/dev/sdb"]);
    assert_eq!(without_skipped(rack(), None).unwrap().len(), 4);
    assert!(without_skipped(rack(), Some(&json!({"name": "/dev/sda"}))).is_err());
    assert!(without_skipped(rack(), Some(&json!(["/dev/sda"]))).is_err());
}

#[test]
fn what_a_skipped_device_lies_on_and_what_lies_on_it_are_left_out_with_it() {
    let on = |name: &str, holders: &[&str]| Disk {
        holders: holders.iter().map(|holder| (*holder).to_owned()).collect(),
        ..disk(name, 10 << 30)
    };
    let all = vec![on("/dev/sda", &["md0"]), on("/dev/sdb", &["md1"]), on("/dev/md0", &["md2"]), on("/dev/md2", &[])];
    let left = |skip: Value| {
        let left = without_skipped(all.clone(), Some(&skip)).unwrap();
        left.into_iter().map(|disk| disk.name).collect::<Vec<_>>()
    };
    assert_eq!(left(json!([{"name": "/dev/md0"}])), ["/dev/sdb"]);
    assert_eq!(left(json!([{"name": "/dev/md2"}])), ["/dev/sdb"]);
    assert_eq!(left(json!([{"name": "/dev/sda"}])), ["/dev/sdb"]);
    assert_eq!(left(json!([{"name": "/dev/sdb"}])), ["/dev/sda", "/dev/md0", "/dev/md2"]);
    // The other disks of an array are not kept for the sake of one.
    let all = [on("/dev/sda", &["md0"]), on("/dev/sdb", &["md0"]), on("/dev/md0", &[])];
    let left = without_skipped(all.to_vec(), Some(&json!([{"name": "/dev/sda"}]))).unwrap();
    assert_eq!(left.iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>(), ["/dev/sdb"]);
}

#[test]
fn an_entry_that_describes_no_disk_is_named_with_the_disks_that_there_are() {
    assert_eq!(check_skipped(&rack(), Some(&json!([{"name": "/dev/sdc"}, {}, {"volume_name": "data"}]))), Ok(()));
    assert_eq!(check_skipped(&rack(), None), Ok(()));
    let error = check_skipped(&rack(), Some(&json!([{"name": "/dev/sdc"}, {"name": "/dev/sdd1"}]))).unwrap_err();
    let error = error.to_string();
    assert!(error.contains(r#"{"name":"/dev/sdd1"}"#) && error.contains("/dev/sda ("), "{error}");
}

fn some_disk() -> impl Strategy<Value = Disk> {
    ("[a-z]{1,3}", 0_u64..1 << 45, any::<bool>(), proptest::option::of("[ -~]{0,12}"))
        .prop_map(|(name, size, rotational, model)| Disk { rotational, model, ..disk(&format!("/dev/{name}"), size) })
}

proptest! {
    #[test]
    fn no_hint_makes_the_matcher_panic(
        disks in proptest::collection::vec(some_disk(), 0..6),
        name in "size|model|serial|name|rotational|wwn",
        value in "(s==|s!=|==|=|<in>|<or>|<|>=|<all-in>)? ?[ -~é]{0,12}( <or> [a-z]{1,4})?",
    ) {
        let hints = json!({ name: value });
        if let Ok(disk) = select_root(&disks, Some(&hints)) {
            prop_assert!(disks.contains(disk));
        }
    }

    #[test]
    fn a_disk_is_found_by_its_own_printable_model(
        model in "[A-Za-z0-9][A-Za-z0-9 %_.-]{0,15}[A-Za-z0-9]",
    ) {
        let disks = [Disk { model: Some(model.clone()), ..disk("/dev/sda", 1) }];
        // A model that begins like an operator is one, to the reference too.
        let found = select_root(&disks, Some(&json!({ "model": model }))).is_ok();
        prop_assert!(found);
    }

    #[test]
    fn one_of_several_is_the_union_of_each_alone(
        disks in proptest::collection::vec(some_disk(), 0..6),
        wanted in proptest::collection::vec("[a-z0-9][a-z0-9 ]{0,5}[a-z0-9]", 1..4),
    ) {
        let matching = |hint: String| -> Vec<bool> {
            let hints = Hints::parse(json!({"model": hint}).as_object().unwrap()).unwrap();
            disks.iter().map(|disk| hints.matches(disk)).collect()
        };
        let together = matching(wanted.iter().map(|one| format!("<or> {one} ")).collect());
        let each: Vec<Vec<bool>> = wanted.iter().map(|one| matching(format!("<or> {one}"))).collect();
        for (index, &matches) in together.iter().enumerate() {
            prop_assert_eq!(matches, each.iter().any(|alone| alone[index]));
        }
    }

    #[test]
    fn opposite_operators_divide_the_disks(
        disks in proptest::collection::vec(some_disk(), 1..6),
        (one, other) in proptest::sample::select(vec![("s==", "s!="), ("s<", "s>="), ("s>", "s<="), ("==", "!="), ("<", ">="), (">", "<=")]),
        text in "[a-z0-9]{1,4}",
        gib in 1_u64..40_000,
    ) {
        let hint = |operator: &str| match operator.strip_prefix('s') {
            Some(_) => json!({"name": format!("{operator} /dev/{text}")}),
            None => json!({"size": format!("{operator} {gib}")}),
        };
        let hints = [one, other].map(|operator| Hints::parse(hint(operator).as_object().unwrap()).unwrap());
        for disk in &disks {
            prop_assert!(hints[0].matches(disk) != hints[1].matches(disk));
        }
    }

    #[test]
    fn more_hints_never_match_more_disks(
        disks in proptest::collection::vec(some_disk(), 0..6),
        rotational in any::<bool>(),
        gib in 1_u64..40_000,
    ) {
        let both = Hints::parse(json!({"rotational": rotational, "size": format!("<= {gib}")}).as_object().unwrap()).unwrap();
        let one = Hints::parse(json!({"rotational": rotational}).as_object().unwrap()).unwrap();
        for disk in &disks {
            prop_assert!(!both.matches(disk) || one.matches(disk));
        }
    }

    #[test]
    fn at_least_and_below_divide_the_disks(size in 1_u64..1 << 45, limit in 1_u64..40_000) {
        let disks = [disk("/dev/sda", size)];
        let above = select_root(&disks, Some(&json!({"size": format!(">= {limit}")}))).is_ok();
        let below = select_root(&disks, Some(&json!({"size": format!("< {limit}")}))).is_ok();
        prop_assert!(above != below);
    }

    #[test]
    fn without_hints_nothing_smaller_that_is_large_enough_is_left(
        disks in proptest::collection::vec(some_disk(), 0..8),
    ) {
        match select_root(&disks, None) {
            Ok(root) => prop_assert!(disks.iter().all(|d| d.size < SMALLEST_ROOT || d.size >= root.size)),
            Err(_) => prop_assert!(disks.iter().all(|d| d.size < SMALLEST_ROOT)),
        }
    }
}

/// A disk of the recording; where the reference knows a short and a long form of a name, one disk for each.
fn variants(recorded: &Value) -> Vec<Disk> {
    let mut flat = vec![recorded.clone()];
    if recorded["rotational"].is_null() {
        flat[0]["rotational"] = json!(false);
    }
    for key in ["serial", "wwn", "wwn_with_extension", "wwn_vendor_extension"] {
        if let Value::Array(forms) = &recorded[key] {
            // A form that is null is left out; of no forms none matches, as with an empty one.
            let known = forms.iter().filter(|form| !form.is_null()).cloned().collect::<Vec<_>>();
            let forms = if known.is_empty() { vec![json!("")] } else { known };
            flat = forms
                .iter()
                .flat_map(|form| {
                    flat.iter().cloned().map(move |mut disk| {
                        disk[key] = form.clone();
                        disk
                    })
                })
                .collect();
        }
    }
    flat.into_iter().map(|disk| serde_json::from_value(disk).unwrap()).collect()
}

#[test]
fn the_recorded_answers_of_the_reference_are_ours() {
    let recorded: Value = serde_json::from_str(include_str!("../../testdata/hints.json")).unwrap();
    let disks: Vec<Vec<Disk>> = recorded["disks"].as_array().unwrap().iter().map(variants).collect();
    // Our disks always know whether they spin; the reference matches no hint on one that does not.
    let unknown = |name: &Value| {
        let recorded = recorded["disks"].as_array().unwrap();
        recorded.iter().any(|disk| disk["name"] == *name && disk["rotational"].is_null())
    };
    let mut differences = Vec::new();
    for case in recorded["cases"].as_array().unwrap() {
        let ours = match Hints::parse(case["hints"].as_object().unwrap()) {
            Err(_) => json!("refused"),
            Ok(hints) => {
                let matching = disks.iter().filter(|forms| forms.iter().any(|disk| hints.matches(disk)));
                let names = matching.map(|forms| json!(forms[0].name));
                names.filter(|name| case["hints"].get("rotational").is_none() || !unknown(name)).collect::<Value>()
            }
        };
        // Digits that are not ASCII: Python takes those of every script, and nobody means them.
        let size = case["hints"]["size"].as_str().unwrap_or_default();
        if ours == "refused" && size.chars().any(|c| c.is_numeric() && !c.is_ascii()) {
            continue;
        }
        // What the reference ends in an error of any kind for is refused here.
        let theirs = case.get("matches").cloned().unwrap_or_else(|| json!("refused"));
        if ours != theirs {
            differences.push(format!("{}: ours {ours}, the reference's {case}", case["hints"]));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn without_hints_the_reference_chooses_as_we_do() {
    let recorded: Value = serde_json::from_str(include_str!("../../testdata/hints.json")).unwrap();
    for case in recorded["guesses"].as_array().unwrap() {
        let disks = case["disks"].as_array().unwrap().iter();
        let disks: Vec<Disk> = disks.map(|row| disk(row[0].as_str().unwrap(), row[1].as_u64().unwrap())).collect();
        let chosen = select_root(&disks, None).ok().map(|disk| disk.name.as_str());
        assert_eq!(chosen, case["chosen"].as_str(), "{case}");
    }
}
