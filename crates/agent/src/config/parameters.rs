//! The parameters of the protocol, as one table: what the agent takes from the kernel command line, from configuration
//! files and from the lookup reply. `docs/agent-parameters.md` is made from it, and defaults are read from it.

use std::fmt::Write as _;

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// `1`, `true`, `yes`, `on`, or `0`, `false`, `no`, `off`.
    Truth,
    /// A whole number from the first to the second.
    Number(u64, u64),
    /// Seconds, whole or with a fraction; not below the number.
    Seconds(u32),
    /// One of these.
    OneOf(&'static [&'static str]),
    /// Texts with commas between them.
    List,
}

/// What comes of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It does what the protocol says.
    Used,
    /// It is known and checked, and does nothing here; the text says why.
    None(&'static str),
}

/// One parameter.
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    /// On the kernel command line, without `ipa-`; `None` for what only files may say.
    pub kernel: Option<&'static str>,
    /// In configuration files; those outside of `[DEFAULT]` have their section in front.
    pub option: &'static str,
    /// How a value is written.
    pub kind: Kind,
    /// Taken when nothing, or nothing usable, is said; empty for none.
    pub default: &'static str,
    /// What comes of it.
    pub effect: Effect,
    /// What it means.
    pub about: &'static str,
}

const PORT: Kind = Kind::Number(1, 65_535);
const COUNT: Kind = Kind::Number(0, u32::MAX as u64);
const ANY: Kind = Kind::Seconds(0);

const fn both(
    kernel: &'static str,
    option: &'static str,
    kind: Kind,
    default: &'static str,
    about: &'static str,
) -> Parameter {
    Parameter { kernel: Some(kernel), option, kind, default, effect: Effect::Used, about }
}

const fn file(option: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Parameter {
    Parameter { kernel: None, option, kind, default, effect: Effect::Used, about }
}

const fn without(parameter: Parameter, why: &'static str) -> Parameter {
    Parameter { effect: Effect::None(why), ..parameter }
}

/// Every parameter, in the order of the page.
#[rustfmt::skip]
pub const PARAMETERS: &[Parameter] = &[
    both("api-url", "api_url", Kind::List, "", "Base URLs of the driver's API, tried in this order, or `mdns`; none: the agent stands alone"),
    both("use-mdns", "mdns/use_mdns", Kind::Truth, "false", "Ask the local network for the API when no URL is given. Answers are not authenticated"),
    both("agent-token", "agent_token", Kind::Text, "", "A token made before the boot, for virtual media"),
    both("global-request-id", "global_request_id", Kind::Text, "", "Sent to the driver as `X-OpenStack-Request-ID`"),
    both("insecure", "insecure", Kind::Truth, "false", "Believe any certificate of the API and of image servers"),
    both("http-request-timeout", "http_request_timeout", Kind::Seconds(1), "30", "Deadline of one request to the API, s"),
    both("ironic-api-version", "ironic_api_version", Kind::Text, "", "Use this microversion (`1.N`) and do not ask for it"),
    both("lookup-timeout", "lookup_timeout", ANY, "600", "Time for all lookups together, s"),
    both("lookup-interval", "lookup_interval", ANY, "1", "First wait between two lookups, s"),
    both("listen-host", "listen_host", Kind::Text, "::", "Address that the agent's API listens on"),
    both("listen-port", "listen_port", PORT, "9999", "Port that it listens on"),
    both("advertise-host", "advertise_host", Kind::Text, "", "Host in the callback URL; found out from the route to the API"),
    both("advertise-port", "advertise_port", PORT, "9999", "Port in the callback URL"),
    both("advertise-protocol", "advertise_protocol", Kind::OneOf(&["http", "https"]), "http", "Scheme of the callback URL when the agent makes no identity"),
    both("network-interface", "network_interface", Kind::Text, "", "Advertise the address of this interface"),
    both("ip-lookup-attempts", "ip_lookup_attempts", Kind::Number(1, u32::MAX as u64), "6", "Tries to find the own address"),
    both("ip-lookup-timeout", "ip_lookup_sleep", ANY, "10", "Wait between them, s"),
    both("tls-min-version", "tls_min_version", Kind::OneOf(&["1.2", "1.3"]), "1.2", "Lowest TLS version of the agent's API; the lookup reply may raise it"),
    without(both("tls-cipher-suites", "tls_cipher_suites", Kind::Text, "", "Suites for TLS 1.2"), "the API offers the protocol's four suites and ChaCha20, whatever is said"),
    both("tls-certificate-curve", "tls_certificate_curve", Kind::OneOf(&["p256", "p384", "p521"]), "p384", "Curve of the generated key"),
    file("enable_auto_tls", Kind::Truth, "true", "Make an identity when the driver can take its certificate"),
    file("auto_tls_allowed_clock_skew", ANY, "3600", "How far back the generated certificate begins, s"),
    file("listen_tls", Kind::Truth, "false", "Serve with the certificate of the next two instead of a generated one"),
    file("tls_cert_file", Kind::Text, "", "Certificate of the API, PEM file"),
    file("tls_key_file", Kind::Text, "", "Its key, PEM file"),
    file("ssl/ca_file", Kind::Text, "", "Authority of those who may connect to the API, PEM file; others are turned away before they can ask"),
    file("cafile", Kind::Text, "", "Authority of the driver's API, PEM file, believed beside the public ones"),
    file("certfile", Kind::Text, "", "Certificate that the agent shows to the driver where it asks, PEM file"),
    file("keyfile", Kind::Text, "", "Its key, PEM file"),
    both("inspection-callback-url", "inspection_callback_url", Kind::List, "", "Where to send the inventory at the start, or `mdns`; none: no inspection"),
    both("inspection-collectors", "inspection_collectors", Kind::List, "", "What to collect, `default,logs` unless said. With an API URL it asks for inspection by itself"),
    both("inspection-dhcp-wait-timeout", "inspection_dhcp_wait_timeout", ANY, "60", "How long an inspection waits for the address of the boot interface, s"),
    both("inspection-dhcp-all-interfaces", "inspection_dhcp_all_interfaces", Kind::Truth, "false", "Wait for all interfaces with a carrier"),
    without(both("inspection-benchmarks", "inspection_benchmarks", Kind::List, "", "Benchmarks of the collector extra-hardware"), "that collector needs a program that the ramdisk lacks"),
    without(file("introspection_daemon", Kind::Truth, "false", "Go on sending the inventory"), "it is for `ironic-collect-introspection-data`, a program beside the agent that the ramdisk has not; the agent sends it once, as Ironic takes it once"),
    without(file("introspection_daemon_post_interval", ANY, "300", "How often that program sends it, s"), "as before"),
    both("collect-lldp", "collect_lldp", Kind::Truth, "false", "Listen for LLDP beside everything else; an inspection waits for it"),
    both("lldp-timeout", "lldp_timeout", ANY, "30", "How long, s"),
    both("enable-vlan-interfaces", "enable_vlan_interfaces", Kind::List, "", "VLAN interfaces: `eth0.100`, `<MAC>.100`; `eth0` or `all` for those that LLDP names"),
    both("hardware-initialization-delay", "hardware_initialization_delay", ANY, "0", "Wait before anything is done, s"),
    both("disk-wait-attempts", "disk_wait_attempts", COUNT, "10", "Tries to find a root disk"),
    both("disk-wait-delay", "disk_wait_delay", ANY, "3", "Wait between them, s"),
    both("ntp-server", "ntp_server", Kind::Text, "", "Time server, asked once at the start; those of DHCP are asked when none is given. The clock of the machine is set, too"),
    file("fail_if_clock_not_set", Kind::Truth, "false", "Do not go on without the time from a time server"),
    both("image-download-connection-timeout", "image_download_connection_timeout", Kind::Seconds(1), "60", "Deadline for the head of an image's answer and between two pieces of it, s"),
    both("image-download-connection-retries", "image_download_connection_retries", COUNT, "9", "Tries after the first"),
    both("image-download-connection-retry-interval", "image_download_connection_retry_interval", ANY, "10", "Wait between them, s"),
    both("image-download-max-duration", "image_download_max_duration", ANY, "0", "Time for an image in all, s; 0 for any"),
    file("image_server_auth_strategy", Kind::OneOf(&["noauth", "http_basic"]), "noauth", "How to log in to image servers when an image does not say"),
    file("image_server_user", Kind::Text, "", "User there"),
    file("image_server_password", Kind::Text, "", "Password there"),
    file("md5_enabled", Kind::Truth, "false", "Accept MD5 digests; the lookup reply decides"),
    without(file("disable_deep_image_inspection", Kind::Truth, "false", "Do not look into images before they are written"), "images are always looked at"),
    file("permitted_image_formats", Kind::List, "raw,gpt,qcow2", "Formats that may be written; the lookup reply decides"),
    without(file("config_drive_rebuild", Kind::Truth, "false", "Always make the config drive anew"), "it is written as it came"),
    file("disable_bootc_deploy", Kind::Truth, "false", "Refuse execute_bootc_install, which runs programs of the image; it needs podman in the ramdisk"),
    file("container/allow_arbitrary_containers", Kind::Truth, "false", "Let steps run any container image with any options; the lookup reply decides, here and below"),
    file("container/allowed_containers", Kind::List, "", "Images that steps may run otherwise"),
    file("container/container_steps_file", Kind::Text, "/etc/ironic-python-agent.d/mysteps.yaml", "Container steps of the ramdisk's own; docs/hardware-managers.md"),
    file("container/runner", Kind::OneOf(&["podman", "docker"]), "podman", "Program that runs containers"),
    file("container/pull_options", Kind::List, "", "Options for pulling images"),
    file("container/run_options", Kind::List, "--rm,--network=host", "Options for running them"),
    both("ignore-bootloader-failure", "ignore_bootloader_failure", Kind::Truth, "false", "Go on when boot entries cannot be written"),
    without(file("enable_bios_bootloader_install", Kind::Truth, "false", "Install legacy boot loaders; the lookup reply may allow it"), "that would execute programs of the image"),
    both("inject-files-priority", "inject_files_priority", Kind::Number(0, 99), "0", "Priority of the deploy step inject_files"),
    both("guard-special-filesystems", "guard_special_filesystems", Kind::Truth, "true", "Refuse to erase metadata where a disk has VMFS, GPFS or GFS2, which several machines may share"),
    both("enable-discard-erase", "enable_discard_erase", Kind::Truth, "false", "Let discard count as an erase where a read of the whole disk shows zeros, unless the driver says so or otherwise"),
    both("debug", "debug", Kind::Truth, "false", "Log everything"),
];

/// Keys of the lookup reply's `config`, each with what the agent does with it.
#[rustfmt::skip]
pub const LOOKUP: &[(&str, &str)] = &[
    ("heartbeat_timeout", "when the driver misses a heartbeat, s; one is sent after 0.3 to 0.6 of it"),
    ("agent_token", "taken over when it has 32 characters or more; `******` without a token of our own locks the machine"),
    ("agent_token_required", "not looked at: the token is always required"),
    ("tls_min_version", "lowest TLS version of the agent's API"),
    ("tls_cipher_suites", "no effect: see ipa-tls-cipher-suites"),
    ("agent_md5_checksum_enable", "whether MD5 digests are accepted"),
    ("disable_deep_image_inspection", "no effect: images are always looked at"),
    ("permitted_image_formats", "formats that may be written"),
    ("enable_bios_bootloader_install", "no effect: legacy boot loaders are never installed, as that would execute programs of the image"),
    ("agent_skip_bmc_detect", "true: the BMC is not asked for its address, and the node document says so in `skip_bmc_detect`"),
    ("ferric_session", "where the driver takes sessions (`url`, and `ca`, its authority as PEM); the agent dials there"),
    ("agent_containers", "what may be run in containers, and how: the options of `[container]`, where the ramdisk has podman or docker"),
    ("metrics", "no effect: the agent sends no metrics"),
    ("metrics_statsd", "no effect: the agent sends no metrics"),
];

/// Words of the kernel command line beside those of the protocol, each with its meaning.
#[rustfmt::skip]
pub const OTHERS: &[(&str, &str)] = &[
    ("BOOTIF=01-aa-bb-cc-dd-ee-ff", "the interface booted from: it gets its address first and its routes are preferred"),
    ("boot_method=vmedia", "believe virtual media: parameters, configuration files and network data are read from there"),
    ("ip=…", "addresses, as dracut takes them: `dhcp`, `dhcp6`, `either6`, `auto6`, `off`, `<device>:dhcp`, `<address>::<gateway>:<netmask or prefix>:<host name>:<device>:none[:<dns>[:<dns>[:<ntp>]]]`"),
    ("nameserver=<address>", "a name server; may be repeated"),
    ("vlan=<name>:<device>", "a VLAN interface; its id is the number at the end of the name, as in `eth0.100` and `vlan100`"),
    ("bond=<name>:<device>,<device>[:<option>=<value>,…[:<mtu>]]", "a bond (ramdisk profile `server`); options are `mode`, `miimon`, `lacp_rate` and `xmit_hash_policy`"),
    ("ferric.log=<filter>", "a log level, or `target=level` directives with commas between them"),
    ("ferric.console=<level>", "`error`, `warn`, `info`, `debug` or `off`: what of the log goes to the console. Unless said, `loglevel=` decides as it does for the kernel; `quiet` alone does not, as it is there to leave the console to the agent"),
    ("ferric.on-exit=<what>", "`reboot`, `poweroff` or `hold` after a failure that cannot be lived with"),
    ("ferric.listen=no", "do not serve the API: the driver reaches the agent by the session that the agent dials, and by nothing else"),
    ("ferric.image-root=<folder>", "`file://` images below it may be read"),
    ("ferric.image-verify=full", "read back all of an image after it was written; without it, both ends and samples of the rest"),
    ("ferric.image-disk-guid=new", "give the disk a GUID of its own in a GUID partition table, in place of the image's; partitions keep theirs"),
];

/// The parameter of that name on the kernel command line or in files; every name in this crate is one.
pub(super) fn find(option: &str) -> Option<&'static Parameter> {
    PARAMETERS.iter().find(|parameter| parameter.option == option)
}

/// Whether the value of that key of the kernel command line is a secret, also where the key is misspelt with underscores
/// or belongs into a file.
pub(crate) fn is_secret(key: &str) -> bool {
    let name = key.replace('_', "-");
    name.starts_with("ipa-") && (name.ends_with("-token") || name.ends_with("-password"))
}

/// What is wrong with a key of the kernel command line that begins as the protocol's do; `None` when nothing is.
pub(super) fn misspelt(key: &str) -> Option<String> {
    let name = key.strip_prefix("ipa").and_then(|rest| rest.strip_prefix(['-', '_']))?;
    let dashed = name.replace('_', "-");
    let known = PARAMETERS.iter().any(|parameter| parameter.kernel == Some(dashed.as_str()));
    match (known, key.contains('_')) {
        (true, false) => None,
        (true, true) => Some(format!("{key} is written with dashes, as ipa-{dashed}; it is not used")),
        (false, _) => {
            Some(format!("{key} is no parameter of this agent and is not used; docs/agent-parameters.md lists them"))
        }
    }
}

impl Kind {
    fn describe(self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Truth => "yes or no".to_owned(),
            Self::Number(0, most) if most == u64::from(u32::MAX) => "number".to_owned(),
            Self::Number(least, most) if most == u64::from(u32::MAX) => format!("number from {least}"),
            Self::Number(least, most) => format!("{least} to {most}"),
            Self::Seconds(0) => "seconds".to_owned(),
            Self::Seconds(least) => format!("seconds from {least}"),
            Self::OneOf(values) => values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", "),
            Self::List => "list with commas".to_owned(),
        }
    }
}

/// The whole page `docs/agent-parameters.md`.
pub fn page() -> String {
    let mut page = String::from(
        "# Parameters of the agent\n\n\
         <!-- Generated from crates/agent/src/config/parameters.rs by `cargo xtask docs`. -->\n\n\
         A parameter is a word of the kernel command line (`ipa-listen-port=9999`), a word of `parameters.txt` on virtual \
         media, which wins, or a line of a configuration file (`listen_port = 9999`), which wins over both. Files are \
         `/etc/ironic-python-agent/*.conf` and `/etc/ironic-python-agent.d/*.conf` of the ramdisk, and those that virtual \
         media bring there. A value that cannot be used is named in the log, with what is used in its place: a machine that \
         checks in with a default can be helped, one that does not check in cannot.\n\n\
         | kernel command line | file | value | default | meaning |\n|---|---|---|---|---|\n",
    );
    for parameter in PARAMETERS {
        let kernel = parameter.kernel.map_or_else(|| "–".to_owned(), |name| format!("`ipa-{name}`"));
        let option = match parameter.option.split_once('/') {
            Some((section, option)) => format!("`[{section}] {option}`"),
            None => format!("`{}`", parameter.option),
        };
        let default = if parameter.default.is_empty() { "–".to_owned() } else { format!("`{}`", parameter.default) };
        let about = match parameter.effect {
            Effect::Used => parameter.about.to_owned(),
            Effect::None(why) => format!("{}. **No effect:** {why}", parameter.about),
        };
        let _ = writeln!(page, "| {kernel} | {option} | {} | {default} | {about} |", parameter.kind.describe());
    }
    let mut table = |title: &str, head: &str, rows: &[(&str, &str)]| {
        let _ = write!(page, "\n## {title}\n\n| {head} | meaning |\n|---|---|\n");
        for (name, about) in rows {
            let _ = writeln!(page, "| `{}` | {} |", name.replace('|', "\\|"), about.replace('|', "\\|"));
        }
    };
    table("Other words of the kernel command line", "word", OTHERS);
    table("What the lookup reply may set", "key of `config`", LOOKUP);
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generated_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/agent-parameters.md");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, page()).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == page(), "docs/agent-parameters.md is stale; `cargo xtask docs` writes it anew");
    }

    #[test]
    fn every_parameter_is_there_once() {
        for (index, one) in PARAMETERS.iter().enumerate() {
            let same =
                |other: &&Parameter| other.option == one.option || (one.kernel.is_some() && other.kernel == one.kernel);
            assert_eq!(PARAMETERS[index + 1..].iter().find(same).map(|other| other.option), None, "{}", one.option);
        }
    }

    #[test]
    fn a_misspelt_parameter_is_named_with_what_was_meant() {
        assert_eq!(misspelt("ipa-api-url"), None);
        assert_eq!(misspelt("console"), None);
        assert!(misspelt("ipa_api_url").unwrap().contains("as ipa-api-url"));
        assert!(misspelt("ipa-apiurl").unwrap().contains("no parameter"));
        // Only files may say it.
        assert!(misspelt("ipa-cafile").is_some());
    }
}
