//! The resolved settings: every parameter of the protocol that this agent reads, with its default and its unit.
//!
//! Names and defaults are those of ironic-python-agent's `config.py`. A file from virtual media (`api_url = …`) wins over
//! the kernel command line (`ipa-api-url=…`). A value that cannot be used is reported in [`Settings::problems`] and the
//! default is used: a node that does not check in at all is worse than one that checks in with a default.

use super::Words;
use super::containers::Containers;
use super::parameters::{self, Effect, Kind};
use crate::state::Token;
use serde_json::Value;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;
use tracing::level_filters::LevelFilter;
use transport::tls::Curve;
use wire::agent::ImageInfo;

/// What is to be asked of the local network by mDNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mdns {
    /// The URL of the API.
    pub api: bool,
    /// The URL for inspections.
    pub inspection: bool,
}

/// A certificate with its key, both PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPair {
    /// Certificate chain.
    pub certificate: PathBuf,
    /// Key.
    pub key: PathBuf,
}

/// A name and a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Who.
    pub user: String,
    /// Never printed.
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// What the agent was told, resolved.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Base URLs of the driver's API, tried in this order; empty for a standalone agent.
    pub api_urls: Vec<String>,
    /// A token that was given before the boot.
    pub agent_token: Option<Token>,
    /// Echoed to the driver in `X-OpenStack-Request-ID`.
    pub global_request_id: Option<String>,
    /// Address to listen on; `None` for all, IPv6 with IPv4 where possible.
    pub listen_host: Option<IpAddr>,
    /// Port to listen on.
    pub listen_port: u16,
    /// Whether the API is served at all; without, the driver reaches the agent by the session that it dials.
    pub listens: bool,
    /// Where the driver takes sessions, as the lookup told.
    pub session_offer: Option<wire::session::Offer>,
    /// Host in the callback URL; found out when `None`.
    pub advertise_host: Option<String>,
    /// Port in the callback URL.
    pub advertise_port: u16,
    /// Scheme in the callback URL when the agent does not make its own identity.
    pub advertise_protocol: String,
    /// Interface whose address is advertised.
    pub network_interface: Option<String>,
    /// Tries to find an own address.
    pub ip_lookup_attempts: u32,
    /// Wait between them.
    pub ip_lookup_timeout: Duration,
    /// Time for all lookups together.
    pub lookup_timeout: Duration,
    /// First interval between lookups.
    pub lookup_interval: Duration,
    /// After this time without a heartbeat the driver misses one; the lookup tells.
    pub heartbeat_timeout: Duration,
    /// Deadline of one request to the API.
    pub http_request_timeout: Duration,
    /// Minor microversion to use, when pinned.
    pub ironic_api_version: Option<u16>,
    /// Believe any certificate of the API and of image servers.
    pub insecure: bool,
    /// PEM file with the authority of the API, from virtual media.
    pub cafile: Option<String>,
    /// Whether the agent may make its own identity.
    pub enable_auto_tls: bool,
    /// Lowest TLS version of the agent's server, before the lookup has its say.
    pub tls_min_version: String,
    /// Curve of the generated key.
    pub tls_curve: Curve,
    /// How far back the generated certificate begins.
    pub tls_clock_skew: Duration,
    /// Certificate and key of the API, PEM files, instead of a generated identity.
    pub listen_tls: Option<KeyPair>,
    /// Whether `listen_tls` was asked for, with or without usable files: then the API is never served without TLS.
    pub needs_tls: bool,
    /// PEM file with the authority of those who may connect to the API; anybody without.
    pub client_authority: Option<PathBuf>,
    /// What the agent shows to the driver where it asks, PEM files.
    pub client_identity: Option<KeyPair>,
    /// What mDNS has to be asked for before the session begins.
    pub mdns: Mdns,
    /// Where to send the inventory; empty for no inspection.
    pub inspection_callback_urls: Vec<String>,
    /// What to collect for it.
    pub inspection_collectors: Vec<String>,
    /// How long an inspection waits for addresses.
    pub inspection_dhcp_wait: Duration,
    /// Whether it waits for those of all interfaces with a carrier.
    pub inspection_dhcp_all_interfaces: bool,
    /// Whether to listen for LLDP.
    pub collect_lldp: bool,
    /// How long.
    pub lldp_timeout: Duration,
    /// VLAN interfaces to make, as `interface.id`, `interface` or `all`.
    pub enable_vlan_interfaces: Vec<String>,
    /// Time server: an address or a host name.
    pub ntp_server: Option<String>,
    /// Whether the session may begin only when the clock is set.
    pub fail_if_clock_not_set: bool,
    /// Tries to find a root disk.
    pub disk_wait_attempts: u32,
    /// Priority of the deploy step `inject_files`; 0 runs it only when somebody asks for it.
    pub inject_files_priority: i64,
    /// Wait between them.
    pub disk_wait_delay: Duration,
    /// Deadline to get the head of an image's answer, and between two pieces of it.
    pub image_timeout: Duration,
    /// Tries after the first to fetch an image.
    pub image_retries: u32,
    /// Wait between them.
    pub image_retry_interval: Duration,
    /// Time for an image in all; `None` for any.
    pub image_max_duration: Option<Duration>,
    /// Bytes of memory for windows and buffers of an image.
    pub image_budget: u64,
    /// Folders from which `file://` images may be read; none unless `ferric.image-root=` names one.
    pub image_roots: Vec<PathBuf>,
    /// Whether all of an image is read back after it was written, and not samples of it.
    pub image_verify_full: bool,
    /// Whether a disk gets a GUID of its own in place of that of the image.
    pub image_new_disk_guid: bool,
    /// User and password for image servers, where an image has no credentials of its own.
    pub image_server_login: Option<Login>,
    /// Whether MD5 digests are accepted.
    pub md5_enabled: bool,
    /// Formats of images that may be written.
    pub permitted_image_formats: Vec<String>,
    /// Whether a clean step refuses to erase file systems that several machines may share.
    pub guard_special_filesystems: bool,
    /// Whether discard counts as an erase where a read of the whole disk shows zeros and the driver does not say.
    pub enable_discard_erase: bool,
    /// Whether the driver says that the BMC need not be looked for.
    pub skip_bmc_detect: bool,
    /// Go on when boot entries cannot be written.
    pub ignore_bootloader_failure: bool,
    /// Whether legacy boot loaders may be installed.
    pub enable_bios_bootloader_install: bool,
    /// What may be run in containers, and how.
    pub containers: Containers,
    /// Refuse `execute_bootc_install`, which runs programs of the image.
    pub disable_bootc_deploy: bool,
    /// Wait before the network is set up and anything else is done.
    pub hardware_initialization_delay: Duration,
    /// Log filter: a level such as `info`, or `target=level` directives with commas between them.
    pub log: String,
    /// What of the log goes to the console; all of it when `None`.
    pub console: Option<LevelFilter>,
    /// The interface that the firmware booted from, in the form of `BOOTIF`.
    pub boot_interface: Option<String>,
    /// What could not be used, for the log.
    pub problems: Vec<String>,
}

/// Where an API takes inspections.
pub(crate) fn inspection_url(api: &str) -> String {
    format!("{api}/v1/continue_inspection")
}

impl Default for Settings {
    fn default() -> Self {
        Self::resolve(&Words::default(), &Words::default())
    }
}

impl Settings {
    /// Resolves the words of the kernel command line (virtual media merged in) and of configuration files.
    pub fn resolve(words: &Words, files: &Words) -> Self {
        let mut reader = Reader { words, files, problems: words.keys().filter_map(parameters::misspelt).collect() };
        let debug = reader.truth("debug");
        let (mut api_urls, api_by_mdns) = reader.urls("api_url");
        let (mut inspection_callback_urls, inspection_by_mdns) = reader.urls("inspection_callback_url");
        let use_mdns = reader.truth("mdns/use_mdns");
        let mdns = Mdns { api: api_by_mdns || (use_mdns && api_urls.is_empty()), inspection: inspection_by_mdns };
        // Who gives no URL for the inspection, but collectors, means the API's.
        let collectors = reader.list("inspection_collectors");
        // Who collects it has to listen for it.
        let collect_lldp = reader.truth("collect_lldp") || collectors.iter().any(|collector| collector == "lldp");
        if inspection_callback_urls.is_empty() && !inspection_by_mdns && !collectors.is_empty() {
            inspection_callback_urls = api_urls.iter().map(|url| inspection_url(url)).collect();
        }
        let inspection_collectors =
            if collectors.is_empty() { vec!["default".to_owned(), "logs".to_owned()] } else { collectors };
        api_urls.dedup();
        let image_max_duration = reader.seconds("image_download_max_duration");
        Self {
            api_urls,
            agent_token: reader.text("agent_token").map(Token::new),
            global_request_id: reader.text("global_request_id"),
            listen_host: reader.listen_host(),
            listen_port: reader.number("listen_port"),
            listens: !reader.one_or_other("ferric.listen", ["yes", "no"]),
            session_offer: None,
            advertise_host: reader.text("advertise_host"),
            advertise_port: reader.number("advertise_port"),
            advertise_protocol: reader.one_of("advertise_protocol"),
            network_interface: reader.text("network_interface"),
            ip_lookup_attempts: reader.number("ip_lookup_attempts"),
            ip_lookup_timeout: reader.seconds("ip_lookup_sleep"),
            lookup_timeout: reader.seconds("lookup_timeout"),
            lookup_interval: reader.seconds("lookup_interval"),
            heartbeat_timeout: Duration::from_secs(300),
            http_request_timeout: reader.seconds("http_request_timeout"),
            ironic_api_version: reader.version(),
            insecure: reader.truth("insecure"),
            cafile: reader.text("cafile"),
            enable_auto_tls: reader.truth("enable_auto_tls"),
            tls_min_version: reader.one_of("tls_min_version"),
            tls_curve: match reader.one_of("tls_certificate_curve").as_str() {
                "p256" => Curve::P256,
                "p521" => Curve::P521,
                _ => Curve::P384,
            },
            tls_clock_skew: reader.seconds("auto_tls_allowed_clock_skew"),
            listen_tls: reader.listen_tls(),
            needs_tls: reader.truth("listen_tls"),
            client_authority: reader.text("ssl/ca_file").map(PathBuf::from),
            client_identity: reader.pair("certfile", "keyfile"),
            mdns,
            inspection_callback_urls,
            inspection_collectors,
            inspection_dhcp_wait: reader.seconds("inspection_dhcp_wait_timeout"),
            inspection_dhcp_all_interfaces: reader.truth("inspection_dhcp_all_interfaces"),
            collect_lldp,
            lldp_timeout: reader.seconds("lldp_timeout"),
            enable_vlan_interfaces: reader.list("enable_vlan_interfaces"),
            ntp_server: reader.host("ntp_server"),
            fail_if_clock_not_set: reader.truth("fail_if_clock_not_set"),
            disk_wait_attempts: reader.number("disk_wait_attempts"),
            inject_files_priority: reader.number("inject_files_priority"),
            disk_wait_delay: reader.seconds("disk_wait_delay"),
            image_timeout: reader.seconds("image_download_connection_timeout"),
            image_retries: reader.number("image_download_connection_retries"),
            image_retry_interval: reader.seconds("image_download_connection_retry_interval"),
            image_max_duration: Some(image_max_duration).filter(|duration| !duration.is_zero()),
            image_budget: disk_image::BUDGET,
            image_roots: words.get("ferric.image-root").map(PathBuf::from).into_iter().collect(),
            image_verify_full: reader.one_or_other("ferric.image-verify", ["sampled", "full"]),
            image_new_disk_guid: reader.one_or_other("ferric.image-disk-guid", ["keep", "new"]),
            image_server_login: reader.image_server_login(),
            md5_enabled: reader.truth("md5_enabled"),
            permitted_image_formats: reader.list("permitted_image_formats"),
            guard_special_filesystems: reader.truth("guard_special_filesystems"),
            enable_discard_erase: reader.truth("enable_discard_erase"),
            skip_bmc_detect: false,
            ignore_bootloader_failure: reader.truth("ignore_bootloader_failure"),
            enable_bios_bootloader_install: reader.truth("enable_bios_bootloader_install"),
            containers: Containers {
                allow_arbitrary: reader.truth("container/allow_arbitrary_containers"),
                allowed: reader.list("container/allowed_containers"),
                steps_file: reader.text("container/container_steps_file").unwrap_or_default().into(),
                runner: reader.one_of("container/runner"),
                pull_options: reader.list("container/pull_options"),
                run_options: reader.list("container/run_options"),
            },
            disable_bootc_deploy: reader.truth("disable_bootc_deploy"),
            hardware_initialization_delay: reader.seconds("hardware_initialization_delay"),
            log: words.get("ferric.log").unwrap_or(if debug { "debug" } else { "info" }).to_owned(),
            console: reader.console(),
            boot_interface: words.get("BOOTIF").map(str::to_owned),
            problems: reader.finished(),
        }
    }

    /// Whether there is no driver to talk to.
    pub fn is_standalone(&self) -> bool {
        self.api_urls.is_empty()
    }

    /// Takes over what the lookup reply says. Unknown keys are none of our business, wrong types keep what is there.
    pub fn adopt(&mut self, config: &wire::ramdisk::LookupConfig) {
        if let Some(version) = config.tls_min_version.as_deref() {
            match version {
                "1.2" | "1.3" => self.tls_min_version = version.to_owned(),
                other => tracing::warn!("tls_min_version {other:?} of the lookup is not known and not used"),
            }
        }
        if let Some(enabled) = config.agent_md5_checksum_enable {
            self.md5_enabled = enabled;
        }
        self.session_offer.clone_from(&config.ferric_session);
        for (key, value) in &config.other {
            if !self.adopt_one(key, value) {
                tracing::warn!(key, %value, "the lookup sets this to a value of the wrong type; it is not used");
            }
        }
    }

    /// Takes over the two options that an answer to mDNS may set (ironic-python-agent's `[mdns] allowed_overrides`); the
    /// answer is not authenticated, so no other is looked at. `inspection` says which of the two services answered.
    pub fn adopt_mdns(&mut self, answer: crate::net::mdns::Answer, inspection: bool) {
        for (key, value) in answer.options {
            match key.as_str() {
                "ipa_ntp_server" => {
                    let words = Words::parse(&format!("ipa-ntp-server={value}"));
                    let mut reader = Reader { words: &words, files: &Words::default(), problems: Vec::new() };
                    self.ntp_server = reader.host("ntp_server").or(self.ntp_server.take());
                }
                "ipa_inspection_callback_url" if !inspection => {
                    let words = Words::parse(&format!("ipa-inspection-callback-url={value}"));
                    let mut reader = Reader { words: &words, files: &Words::default(), problems: Vec::new() };
                    self.inspection_callback_urls = reader.urls("inspection_callback_url").0;
                }
                _ => tracing::warn!(key, "an option that mDNS may not set is not used"),
            }
        }
    }

    /// Takes over one key; `false` when its value is of the wrong type.
    fn adopt_one(&mut self, key: &str, value: &Value) -> bool {
        match (key, value) {
            // False is what the driver says to an agent that was allowed it by its own configuration, too.
            ("enable_bios_bootloader_install", Value::Bool(allowed)) => self.enable_bios_bootloader_install |= allowed,
            ("agent_skip_bmc_detect", Value::Bool(skip)) => self.skip_bmc_detect = *skip,
            ("agent_containers", told) => return self.containers.adopt(told),
            ("permitted_image_formats", Value::Array(formats)) => {
                let names: Option<Vec<String>> = formats.iter().map(|name| name.as_str().map(str::to_owned)).collect();
                match names {
                    Some(names) => self.permitted_image_formats = names,
                    None => return false,
                }
            }
            ("enable_bios_bootloader_install" | "agent_skip_bmc_detect" | "permitted_image_formats", other) => {
                return other.is_null();
            }
            _ => {}
        }
        true
    }

    /// A sentence about an image for logs: its name and how many places it can be had from. URLs may carry secrets.
    pub fn describe(info: &ImageInfo) -> String {
        format!("{} ({} URL{})", info.id, info.urls.len(), if info.urls.len() == 1 { "" } else { "s" })
    }
}

/// Reads options by their name in [`parameters::PARAMETERS`], which has their default and their form.
struct Reader<'a> {
    words: &'a Words,
    files: &'a Words,
    problems: Vec<String>,
}

impl Reader<'_> {
    /// What was said of an option, with the key by which it was.
    fn said(&self, option: &str) -> Option<(String, &str)> {
        let kernel = parameters::find(option).and_then(|parameter| parameter.kernel).map(|name| format!("ipa-{name}"));
        let in_file = self.files.get(option).map(|value| (option.to_owned(), value));
        let value = in_file.or_else(|| kernel.and_then(|key| self.words.get(&key).map(|value| (key, value))));
        value.filter(|(_, value)| !value.is_empty())
    }

    fn default_of(option: &str) -> &'static str {
        parameters::find(option).map_or("", |parameter| parameter.default)
    }

    /// What `read` makes of the value that was said; the default when it makes nothing of it.
    fn read<T>(&mut self, option: &str, wanted: &str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let default = Self::default_of(option);
        if let Some((key, value)) = self.said(option) {
            if let Some(value) = read(value) {
                return Some(value);
            }
            let taken = if default.is_empty() { "it is not used".to_owned() } else { format!("{default} is used") };
            let problem = format!("{key}={value} is not {wanted}; {taken}");
            self.problems.push(problem);
        }
        read(default)
    }

    fn text(&self, option: &str) -> Option<String> {
        let value = self.said(option).map_or(Self::default_of(option), |(_, value)| value);
        Some(value).filter(|value| !value.is_empty()).map(str::to_owned)
    }

    /// Two files that belong together; one alone is a mistake that is named.
    fn pair(&mut self, certificate: &str, key: &str) -> Option<KeyPair> {
        match (self.text(certificate), self.text(key)) {
            (Some(certificate), Some(key)) => Some(KeyPair { certificate: certificate.into(), key: key.into() }),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                self.problems.push(format!("{certificate} and {key} belong together; the one is not used"));
                None
            }
        }
    }

    fn listen_tls(&mut self) -> Option<KeyPair> {
        let pair = self.pair("tls_cert_file", "tls_key_file");
        if !self.truth("listen_tls") {
            return None;
        }
        if pair.is_none() {
            let problem = "listen_tls needs tls_cert_file and tls_key_file; a generated identity is used";
            self.problems.push(problem.to_owned());
        }
        pair
    }

    fn image_server_login(&mut self) -> Option<Login> {
        let (user, password) = (self.text("image_server_user"), self.text("image_server_password"));
        if self.one_of("image_server_auth_strategy") != "http_basic" {
            return None;
        }
        let login = user.zip(password).map(|(user, password)| Login { user, password });
        if login.is_none() {
            let problem = "image_server_auth_strategy http_basic needs image_server_user and image_server_password; \
                           nothing is sent";
            self.problems.push(problem.to_owned());
        }
        login
    }

    fn list(&self, option: &str) -> Vec<String> {
        let text = self.text(option).unwrap_or_default();
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    /// The URLs, and whether mDNS is to be asked for them.
    fn urls(&mut self, option: &str) -> (Vec<String>, bool) {
        let (mut urls, mut mdns) = (Vec::new(), false);
        for url in self.list(option) {
            let parsed = url.parse::<http::Uri>().ok().filter(|uri| {
                matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
            });
            match parsed {
                Some(_) => urls.push(url.trim_end_matches('/').to_owned()),
                None if url == "mdns" => mdns = true,
                None => self.problems.push(format!(
                    "{option}: {url:?} is not a URL as http://host:6385 or https://[fd00::1]:6385 and is not used"
                )),
            }
        }
        (urls, mdns)
    }

    fn number<T: TryFrom<u64> + Default>(&mut self, option: &str) -> T {
        let (least, most) = match parameters::find(option).map(|parameter| parameter.kind) {
            Some(Kind::Number(least, most)) => (least, most),
            _ => (0, u64::MAX),
        };
        let fits = |text: &str| text.parse().ok().filter(|number| (least..=most).contains(number));
        let number = self.read(option, &format!("a number from {least} to {most}"), fits);
        number.and_then(|number| T::try_from(number).ok()).unwrap_or_default()
    }

    fn seconds(&mut self, option: &str) -> Duration {
        /// Longer than any machine runs, and no sum of it and a clock overflows.
        const MOST: f64 = 1e9;
        let least = match parameters::find(option).map(|parameter| parameter.kind) {
            Some(Kind::Seconds(least)) => f64::from(least),
            _ => 0.0,
        };
        let fits = |text: &str| text.parse().ok().filter(|seconds| (least..=MOST).contains(seconds));
        let seconds = self.read(option, &format!("a number of seconds from {least}"), fits);
        Duration::from_secs_f64(seconds.unwrap_or_default())
    }

    fn truth(&mut self, option: &str) -> bool {
        let read = |text: &str| match text.to_ascii_lowercase().as_str() {
            "1" | "t" | "true" | "on" | "y" | "yes" => Some(true),
            "0" | "f" | "false" | "off" | "n" | "no" => Some(false),
            _ => None,
        };
        self.read(option, "yes or no (1 or 0, true or false)", read).unwrap_or_default()
    }

    fn one_of(&mut self, option: &str) -> String {
        let known = match parameters::find(option).map(|parameter| parameter.kind) {
            Some(Kind::OneOf(known)) => known,
            _ => &[],
        };
        let read = |text: &str| known.contains(&text).then(|| text.to_owned());
        self.read(option, &format!("one of {}", known.join(", ")), read).unwrap_or_default()
    }

    /// An address or a name that cannot be mistaken for anything else.
    fn host(&mut self, option: &str) -> Option<String> {
        let read = |text: &str| {
            let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
            let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            let usable = bare.parse::<IpAddr>().is_ok()
                || (bare.len() <= 253
                    && bare.starts_with(|c: char| c.is_ascii_alphanumeric())
                    && bare.chars().all(name));
            usable.then(|| bare.to_owned())
        };
        self.read(option, "an IP address or a host name", read)
    }

    fn listen_host(&mut self) -> Option<IpAddr> {
        let address = self.read("listen_host", "an IP address", |text| text.parse::<IpAddr>().ok());
        address.filter(|address| !address.is_unspecified())
    }

    fn version(&mut self) -> Option<u16> {
        self.read("ironic_api_version", "of the form 1.N", |text| text.strip_prefix("1.")?.parse().ok())
    }

    /// Whether a word of the kernel command line says the second of two things; the first is what no word says.
    fn one_or_other(&mut self, word: &str, [usual, other]: [&str; 2]) -> bool {
        let said = self.words.get(word);
        if let Some(text) = said.filter(|text| ![usual, other].contains(text)) {
            self.problems.push(format!("{word}={text} is neither {usual} nor {other}; it is taken as {usual}"));
        }
        said == Some(other)
    }

    /// `ferric.console=`, else `loglevel=` with the kernel's meaning: what is below that number is shown
    /// (`Documentation/admin-guide/kernel-parameters.txt`; errors are 3, warnings 4, information 6, debugging 7).
    fn console(&mut self) -> Option<LevelFilter> {
        if let Some(text) = self.words.get("ferric.console") {
            let level = text.parse().ok();
            if level.is_none() {
                self.problems.push(format!(
                    "ferric.console={text} is not off, error, warn, info, debug or trace; all of the log is shown"
                ));
            }
            return level;
        }
        let level: u8 = self.words.get("loglevel")?.parse().ok()?;
        Some(match level {
            // What the agent calls an error ends a deployment; there is no console on which it is too much.
            0..=4 => LevelFilter::ERROR,
            5 | 6 => LevelFilter::WARN,
            7 => LevelFilter::INFO,
            8.. => LevelFilter::DEBUG,
        })
    }

    /// All problems; parameters without effect that somebody set are among them.
    fn finished(mut self) -> Vec<String> {
        for parameter in parameters::PARAMETERS {
            // Who says yes to a protection relies on it, whether it is the default or not.
            if let (Effect::None(why), Some((key, value))) = (parameter.effect, self.said(parameter.option))
                && (value != parameter.default || parameter.default == "true")
            {
                let problem = format!("{key} has no effect: {why}");
                self.problems.push(problem);
            }
        }
        self.problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(line: &str) -> Settings {
        Settings::resolve(&Words::parse(line), &Words::default())
    }

    #[test]
    fn an_empty_command_line_means_standalone_with_the_protocols_defaults() {
        let settings = settings("quiet console=ttyS0");
        assert!(settings.is_standalone());
        assert_eq!(settings.listen_port, 9999);
        assert_eq!(settings.lookup_timeout, Duration::from_secs(600));
        assert_eq!(settings.tls_min_version, "1.2");
        assert!(settings.problems.is_empty());
    }

    #[test]
    fn several_api_urls_are_kept_in_order_without_their_slashes() {
        let settings = settings("ipa-api-url=http://a:6385/,https://[fd00::1]:6385,,ftp://c ipa-debug=1");
        assert_eq!(settings.api_urls, ["http://a:6385", "https://[fd00::1]:6385"]);
        assert_eq!(settings.problems.len(), 1);
        assert!(settings.problems[0].contains("ftp://c"));
        assert_eq!(settings.log, "debug");
    }

    #[test]
    fn values_of_no_use_are_named_and_the_defaults_stay() {
        let settings = settings(
            "ipa-listen-port=http ipa-lookup-timeout=-1 ipa-insecure=maybe ipa-tls-min-version=1.1 \
             ipa-ironic-api-version=2.0 ipa-listen-host=here",
        );
        assert_eq!(settings.listen_port, 9999);
        assert_eq!(settings.lookup_timeout, Duration::from_secs(600));
        assert!(!settings.insecure);
        assert_eq!(settings.tls_min_version, "1.2");
        assert_eq!(settings.problems.len(), 6, "{:#?}", settings.problems);
        assert_eq!(settings.problems[0], "ipa-listen-host=here is not an IP address; :: is used");
    }

    #[test]
    fn parameters_without_effect_say_so_to_whom_relies_on_them() {
        assert!(!settings("ipa-guard-special-filesystems=false").guard_special_filesystems);
        assert!(settings("ipa-enable-discard-erase=true").enable_discard_erase);
        let relied_on = settings("ipa-tls-cipher-suites=ECDHE-RSA-AES256-GCM-SHA384");
        assert_eq!(relied_on.problems.len(), 1, "{:?}", relied_on.problems);
        assert!(relied_on.problems.iter().all(|problem| problem.contains("has no effect")), "{:?}", relied_on.problems);
        assert_eq!(settings("").problems, Vec::<String>::new());
        assert!(settings("ipa-inspection-collectors=default,lldp").collect_lldp);
    }

    #[test]
    fn every_default_of_the_table_can_be_used_and_says_the_same() {
        let whole: Vec<String> = parameters::PARAMETERS
            .iter()
            .filter(|parameter| !parameter.default.is_empty())
            .map(|parameter| format!("{} = {}", parameter.option.rsplit('/').next().unwrap(), parameter.default))
            .collect();
        let mut said = Settings::resolve(&Words::default(), &Words::parse_ini(&whole.join("\n")));
        let problems = std::mem::take(&mut said.problems);
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(format!("{said:?}"), format!("{:?}", Settings::default()));
    }

    #[test]
    fn bad_values_of_every_parameter_end_in_its_default_and_are_named() {
        for parameter in parameters::PARAMETERS {
            let bad = match parameter.kind {
                Kind::Text | Kind::List => continue,
                Kind::Truth | Kind::OneOf(_) => "perhaps",
                Kind::Number(..) => "99999999999999999999",
                Kind::Seconds(_) => "NaN",
            };
            let key = parameter.kernel.map(|name| format!("ipa-{name}"));
            let settings = match &key {
                Some(key) => Settings::resolve(&Words::parse(&format!("{key}={bad}")), &Words::default()),
                None => Settings::resolve(&Words::default(), &Words::parse_ini(&format!("{}={bad}", parameter.option))),
            };
            let key = key.unwrap_or_else(|| parameter.option.to_owned());
            assert!(
                settings.problems.iter().any(|problem| problem.starts_with(&key)),
                "{key}: {:?}",
                settings.problems
            );
            let default = Settings { problems: settings.problems.clone(), ..Settings::default() };
            assert_eq!(format!("{settings:?}"), format!("{default:?}"), "{key}");
        }
    }

    #[test]
    fn lp_2160050_a_time_server_with_anything_but_a_name_in_it_is_refused() {
        for bad in [";touch /x", "$(reboot)", "-q", "a b", "`id`"] {
            let files = Words::parse_ini(&format!("ntp_server = {bad}"));
            assert_eq!(Settings::resolve(&Words::default(), &files).ntp_server, None, "{bad}");
        }
        assert_eq!(settings("ipa-ntp-server=[fd00::123]").ntp_server.as_deref(), Some("fd00::123"));
        assert_eq!(settings("ipa-ntp-server=ntp.example.org").ntp_server.as_deref(), Some("ntp.example.org"));
    }

    #[test]
    fn ossn_0104_mdns_is_asked_only_when_it_was_asked_for() {
        assert_eq!(settings("quiet").mdns, Mdns::default());
        assert_eq!(settings("ipa-api-url=mdns").mdns, Mdns { api: true, inspection: false });
        assert_eq!(settings("ipa-inspection-callback-url=mdns").mdns, Mdns { api: false, inspection: true });
        assert_eq!(settings("ipa-use-mdns=1").mdns, Mdns { api: true, inspection: false });
        assert_eq!(settings("ipa-use-mdns=1 ipa-api-url=http://a").mdns, Mdns::default());
    }

    #[test]
    fn collectors_without_a_url_send_to_the_api() {
        let asked = settings("ipa-api-url=http://a:1/,http://b ipa-inspection-collectors=default");
        assert_eq!(
            asked.inspection_callback_urls,
            ["http://a:1/v1/continue_inspection", "http://b/v1/continue_inspection"]
        );
        assert_eq!(asked.inspection_collectors, ["default"]);
        assert!(settings("ipa-api-url=http://a:1").inspection_callback_urls.is_empty());
    }

    #[test]
    fn the_console_follows_its_own_word_then_the_kernels() {
        assert_eq!(settings("quiet").console, None);
        assert_eq!(settings("quiet loglevel=3").console, Some(LevelFilter::ERROR));
        assert_eq!(settings("loglevel=7").console, Some(LevelFilter::INFO));
        assert_eq!(settings("loglevel=3 ferric.console=debug").console, Some(LevelFilter::DEBUG));
        let odd = settings("ferric.console=loud");
        assert_eq!((odd.console, odd.problems.len()), (None, 1));
    }

    #[test]
    fn an_image_is_read_back_whole_and_its_disk_named_anew_only_on_request() {
        let both = |settings: &Settings| (settings.image_verify_full, settings.image_new_disk_guid);
        assert_eq!(both(&settings("")), (false, false));
        assert_eq!(both(&settings("ferric.image-verify=full ferric.image-disk-guid=new")), (true, true));
        let odd = settings("ferric.image-verify=all");
        assert!(!odd.image_verify_full && odd.problems[0].contains("neither sampled nor full"), "{:?}", odd.problems);
    }

    #[test]
    fn what_has_no_effect_is_said_only_to_those_who_set_it() {
        assert!(settings("ipa-inspection-benchmarks=").problems.is_empty());
        assert!(settings("ipa-inspection-benchmarks=cpu").problems[0].contains("no effect"));
        let secret = Settings::resolve(&Words::default(), &Words::parse_ini("image_server_password = canary"));
        assert!(!format!("{secret:?}").contains("canary"));
    }

    #[test]
    fn the_lookup_reply_sets_what_the_page_lists_and_wrong_types_change_nothing() {
        let adopt = |document: serde_json::Value| {
            let mut settings = Settings::default();
            settings.adopt(&serde_json::from_value(document).unwrap());
            settings
        };
        let adopted = adopt(serde_json::json!({
            "tls_min_version": "1.3", "agent_md5_checksum_enable": true, "agent_skip_bmc_detect": true,
            "enable_bios_bootloader_install": true, "permitted_image_formats": ["raw", "iso"],
            "agent_containers": {"runner": "podman"}, "tls_cipher_suites": null,
            "metrics": {"backend": "noop"}, "a_later_key": {"x": []},
        }));
        assert_eq!(adopted.tls_min_version, "1.3");
        assert!(adopted.md5_enabled && adopted.skip_bmc_detect && adopted.enable_bios_bootloader_install);
        assert_eq!(adopted.permitted_image_formats, ["raw", "iso"]);
        let kept = adopt(serde_json::json!({
            "tls_min_version": "3", "agent_skip_bmc_detect": "yes", "permitted_image_formats": "raw",
            "enable_bios_bootloader_install": 1,
        }));
        assert_eq!(format!("{kept:?}"), format!("{:?}", Settings::default()));
    }

    #[test]
    fn files_from_media_win_over_the_command_line() {
        let files =
            Words::parse_ini("[DEFAULT]\napi_url = http://media\ncafile = /etc/ironic-python-agent/ironic.crt\n");
        let settings = Settings::resolve(&Words::parse("ipa-api-url=http://line"), &files);
        assert_eq!(settings.api_urls, ["http://media"]);
        assert_eq!(settings.cafile.as_deref(), Some("/etc/ironic-python-agent/ironic.crt"));
    }

    #[test]
    fn the_token_is_not_printed() {
        let settings = settings("ipa-agent-token=0123456789abcdef0123456789abcdef");
        assert!(settings.agent_token.is_some());
        assert!(!format!("{settings:?}").contains("abcdef"));
    }
}
