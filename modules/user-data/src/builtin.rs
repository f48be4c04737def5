//! What is never mirrored, and what is left alone unless the user brings it back. Each line carries its reason.
//!
//! Patterns are relative to a home directory; the numbers are of `facts/mirror.md` M20 to M24, M35.

/// Identity and our own state: no rule brings these back.
pub const FORCED: &[(&str, &str)] = &[
    (".ssh/id_*", "private identity, one per machine"),
    (".ssh/known_hosts*", "host keys of peers: a copy breaks the way back"),
    (".ssh/authorized_keys*", "who may log in to this machine"),
    (".config/tailscale", "node identity"),
    (".local/share/tailscale", "node identity"),
    (".config/pc-switcher", "our own configuration belongs to the machine"),
    (".local/state/pc-switcher", "our own state"),
    (".local/share/pc-switcher", "our own state"),
    (".cache/pc-switcher", "our own state"),
    (".config/bt.toml", "the vault's configuration belongs to the machine"),
];

/// Bound to a machine or made anew: left alone by default; a leading `!` keeps.
pub const DEFAULTS: &[(&str, &str)] = &[
    (".cache/*", "made anew at need"),
    ("!.cache/uv", "packages for work without a network"),
    ("!.cache/pip", "packages for work without a network"),
    (".nv", "shader cache of this graphics card"),
    (".local/share/Steam/steamapps/shadercache", "shader cache of this graphics card"),
    (".config/Code/Cache", "made anew at need"),
    (".config/Code/CachedData", "made anew at need"),
    (".config/Code/GPUCache", "made anew at need"),
    (".config/Code/Code Cache", "made anew at need"),
    (".config/Code/CachedExtensionVSIXs", "made anew at need"),
    (".config/Code/logs", "logs of this machine"),
    (".local/share/flatpak", "owned by the package tools"),
    (".local/share/containers", "owned by the container engine"),
    (".local/share/Trash", "this machine's waste"),
    (".local/share/gvfs-metadata", "bound to this machine"),
    (".local/share/keyrings", "bound to this machine's login"),
    (".config/monitors.xml", "the screens of this machine"),
    (".config/pulse", "the sound devices of this machine"),
    (".local/state/wireplumber", "the sound devices of this machine"),
    (".Xauthority", "the running session"),
    (".ICEauthority", "the running session"),
    (".dbus", "the running session"),
    (".gnupg/S.*", "sockets of the running agent"),
    (".gvfs", "mounts of the running session"),
    (".config/**/Singleton*", "lock of a browser on this machine"),
    (".mozilla/**/lock", "lock of a browser on this machine"),
    (".mozilla/**/.parentlock", "lock of a browser on this machine"),
    (".thunderbird/**/lock", "lock of a mail program on this machine"),
    (".thunderbird/**/.parentlock", "lock of a mail program on this machine"),
];
