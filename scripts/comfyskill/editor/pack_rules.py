"""What node packs' browser code changes between the saved node and the graph: one row per fact, as data.

Pure. A row names the pack, the classes it is about and the public file that shows it. To add a pack, add a
row and a test in tests/editor/test_editor_pack_rules.py; `convert_workflow.py --check-pack OBJECT_INFO` lists the classes
that need one. Files are named "owner/repository: path" on GitHub.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

# What a browser-only node does with links: passes its one input on, returns a named value, or nothing.
REROUTE, SETTER, GETTER, PANEL, BROADCAST = "reroute", "setter", "getter", "panel", "broadcast"
# What a declared type of a pack is: a widget that is sent, or one that is saved and not sent.
SENT, KEPT = "sent", "kept"


class Rule(NamedTuple):
    """One row. A class may end in "*", which matches any ending; no class means all that declare `types`.

    types: declared input types that have a widget, each SENT or KEPT; of these classes only where the row names some.
    before: what the script puts before a widget of these types; it has a place in the file and is not sent.
    without: inputs whose widget the script removes ("*" at the end as for classes); they are not sent.
    added: widgets that the script adds after the declared ones, by name; they are sent.
    listed: names of the values in the lists of older files, from before the pack saved values by name; None for a
        place without a value.
    by_name: the pack saves its values as an object, by name.
    renamed: old input name to the name it has now.
    always: inputs that are sent with this value whatever was saved.
    tokens: text inputs in which %date:...% and %Node.widget% are replaced.
    loaded: functions of `pack_values` that change the widgets once the saved values are in place.
    queued: functions of `pack_values` that change what is sent, once values and links are known.
    own_values: the saved values are not those of declared widgets; the `loaded` functions read them.
    virtual: the class exists in the browser only, and what it does with links.
    partner: for SETTER, the class that returns the value.
    note: a warning that every conversion of such a node gives.
    refused: why a graph cannot be made from the file alone; the node is then refused, or named with --allow-unsure.
        If the row also has `types`, this holds only for nodes that declare one of them.
    """

    pack: str
    source: str
    classes: tuple[str, ...] = ()
    types: Mapping[str, str] = {}
    before: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    listed: tuple[str | None, ...] = ()
    by_name: bool = False
    renamed: Mapping[str, str] = {}
    always: Mapping[str, str] = {}
    tokens: tuple[str, ...] = ()
    loaded: tuple[str, ...] = ()
    queued: tuple[str, ...] = ()
    own_values: bool = False
    virtual: str = ""
    partner: str = ""
    note: str = ""
    refused: str = ""


_LORA, _WILDCARD = "Select the LoRA to add to the text", "Select the Wildcard to add to the text"
_SELECT = {"Select to add LoRA": _LORA, "Select to add Wildcard": _WILDCARD}
_EASY_PROMPT = {
    "prefix": "Select the prefix add to the text",
    "subject": "👤Select the subject add to the text",
    "action": "🎬Select the action add to the text",
    "clothes": "👚Select the clothes add to the text",
    "environment": "☀️Select the illumination environment add to the text",
    "background": "🎞️Select the background add to the text",
    "nsfw": "🔞Select the nsfw add to the text",
}
_VIDEO_LIST = ("video", "force_rate", "force_size", "frame_load_cap", "skip_first_frames", "select_every_nth")
_IMPACT = "ltdrdata/ComfyUI-Impact-Pack: js/impact-pack.js"
_IMPACT_IMAGE = "ltdrdata/ComfyUI-Impact-Pack: js/impact-image-util.js"
_INSPIRE = "ltdrdata/ComfyUI-Inspire-Pack: js/prompt.js"
_VHS = "Kosinkadink/ComfyUI-VideoHelperSuite: web/js/VHS.core.js"
_EASY = "yolain/ComfyUI-Easy-Use: web_version/v2/assets/extensions-*.js"
_EASY_OLD = "yolain/ComfyUI-Easy-Use: web_version/v1/js/easy/easySaveImage.js"
_RGTHREE = "rgthree/rgthree-comfy: web/comfyui/"
_LORA_MANAGER = "willmiao/ComfyUI-Lora-Manager: web/comfyui/"
_MIXLAB = "shadowcz007/comfyui-mixlab-nodes: web/javascript/"
_MX = "Smirnov75/ComfyUI-mxToolkit: js/"

RULES: tuple[Rule, ...] = (
    # VideoHelperSuite saves by name; older files hold a list, or force_size in the place of two sizes.
    Rule("ComfyUI-VideoHelperSuite", _VHS, ("VHS_LoadVideo", "VHS_LoadVideoPath"), listed=_VIDEO_LIST),
    Rule("ComfyUI-VideoHelperSuite", _VHS, ("VHS_LoadImages",),
         listed=("directory", None, "image_load_cap", "skip_first_images", "select_every_nth")),
    Rule("ComfyUI-VideoHelperSuite", _VHS, ("VHS_LoadImagesPath",),
         listed=("directory", "image_load_cap", "skip_first_images", "select_every_nth")),
    Rule("ComfyUI-VideoHelperSuite", _VHS, ("VHS_VideoCombine",),
         listed=("frame_rate", "loop_count", "filename_prefix", "format", "pingpong", "save_image"),
         renamed={"save_image": "save_output"}, tokens=("filename_prefix",), loaded=("vhs_format_options",)),
    Rule("ComfyUI-VideoHelperSuite", _VHS, ("VHS_*",), by_name=True, renamed={"batch_manager": "meta_batch"},
         loaded=("vhs_sizes",)),
    Rule("ComfyUI-VideoHelperSuite", _VHS, ("VHS_Load*", "VHS_VideoCombine", "VHS_BatchManager"),
         loaded=("vhs_numbers",)),
    Rule("ComfyUI-VideoHelperSuite", _VHS,
         types={"VHSPATH": SENT, "VHSFLOAT": SENT, "VHSINT": SENT, "VHSTIMESTAMP": SENT}),
    Rule("ComfyUI-VideoHelperSuite", _VHS, ("VHS_SelectLatest",), virtual=PANEL,
         note="picks the newest file in the browser; the nodes it feeds keep the file that was saved"),
    # Colours, curves and other widgets of a pack's own.
    Rule("ComfyUI-RMBG", "1038lab/ComfyUI-RMBG: web/js/colorWidget.js", types={"COLORCODE": SENT}),
    Rule("comfy_mtb", "melMass/comfy_mtb: web/mtb_widgets.js", types={"MTB_COLOR": SENT}),
    Rule("ComfyUI_LayerStyle", "chflame163/ComfyUI_LayerStyle: js/dz_mtb_widgets.js", types={"BOOL": SENT}),
    Rule("Jovi_Capture", "Amorano/Jovi_Capture: web/widget_vector.js",
         types={"VEC2": SENT, "VEC3": SENT, "VEC4": SENT}),
    Rule("ComfyUI_Custom_Nodes_AlekPet", "AlekPet/ComfyUI_Custom_Nodes_AlekPet: web_alekpet_nodes/ide_node.js",
         ("IDENode",), types={"PYCODE": SENT}, before=("theme_highlight", "Load code", "widget_ide_node_controls")),
    Rule("ComfyUI-KYNode", "yorkane/ComfyUI-KYNode: web/python-editor.js", ("KY_Eval_Python",),
         types={"PYCODE": SENT}, before=("select_type", "Add Input variable", "Add Output variable")),
    Rule("ComfyUI-Lora-Manager", _LORA_MANAGER + "loras_widget.js", types={"LORAS": SENT}),
    Rule("ComfyUI-Lora-Manager", _LORA_MANAGER + "vue-widgets/lora-manager-widgets.js",
         types={"LORA_POOL_CONFIG": SENT, "RANDOMIZER_CONFIG": SENT, "CYCLER_CONFIG": SENT}),
    Rule("ComfyUI-Lora-Manager", _LORA_MANAGER + "vue-widgets/lora-manager-widgets.js",
         types={"AUTOCOMPLETE_TEXT_LORAS": SENT, "AUTOCOMPLETE_TEXT_PROMPT": SENT},
         before=("__lm_autocomplete_meta_text",)),
    Rule("ComfyUI-Lora-Manager", _LORA_MANAGER + "trigger_word_toggle.js", ("TriggerWord Toggle (LoraManager)",),
         added=("toggle_trigger_words", "orinalMessage"), queued=("trigger_words",)),
    Rule("ComfyUI-Lora-Manager", _LORA_MANAGER + "save_image_extra_output.js", ("Save Image (LoraManager)",),
         tokens=("filename_prefix",)),
    Rule("comfyui-mixlab-nodes", _MIXLAB + "image_mixlab.js", types={"IMAGEBASE64": SENT}),
    Rule("comfyui-mixlab-nodes", _MIXLAB + "audio_mixlab.js", types={"AUDIOBASE64": SENT}),
    Rule("comfyui-mixlab-nodes", _MIXLAB + "utils_mixlab.js", ("Color",), types={"TCOLOR": SENT},
         queued=("mixlab_color",)),
    Rule("comfyui-mixlab-nodes", _MIXLAB + "*_mixlab.js", (
        "SvgImage", "3DImage", "ScreenShare", "SpeechRecognition", "LoadImagesFromPath", "KeyInput", "ShowLayer"),
        types={"SVG": KEPT, "THREED": KEPT, "CHEESE": KEPT, "PROMPT": KEPT, "SLIDE": KEPT, "SEED": KEPT,
               "AUDIOINPUTMIX": KEPT, "WATCHER": KEPT, "KEY": KEPT, "EDIT": KEPT},
        refused="its value is kept in the browser that saved the file, or made there at each run"),
    Rule("ComfyUI_zfkun", "zfkun/ComfyUI_zfkun: js/share_screen.js", ("ZFShareScreen",), types={"BASE64": KEPT},
         refused="its picture is taken from the screen in the browser at each run"),
    Rule("comfyui-art-venture", "sipherxyz/comfyui-art-venture: web/text-switch-case.js", ("TextSwitchCase",),
         without=("condition",), added=("condition",)),
    Rule("ComfyUI-Counter", "oleksandr612/ComfyUI-Counter: js/SimpleCounter.js", ("Simple Counter",),
         queued=("simple_counter",), note="counts up in the browser at each run; this graph has its first number"),
    Rule("ComfyUI_Dave_CustomNode", "Davemane42/ComfyUI_Dave_CustomNode: javascript/MultiAreaConditioning.js",
         ("MultiAreaConditioning", "MultiLatentComposite"),
         note="reads its areas from the workflow that the editor sends beside the graph; a graph alone lacks them"),
    Rule("comfy_mtb", "melMass/comfy_mtb: web/curve_widget.js", types={"FLOAT_CURVE": SENT}),
    Rule("ComfyUI-Easy-Use", _EASY, types={
        "EASY_COMBO": SENT, "EASY_PROMPT_STYLES": SENT, "EASY_PROMPT_AWAIT_BAR": SENT, "EASY_MULTI_ANGLE": SENT,
        "EASY_TABLE_EDITOR": SENT}),
    Rule("ComfyUI-Easy-Use", _EASY, ("easy tableEditor",), queued=("easy_table",)),
    Rule("ComfyUI-AnimateDiff-Evolved", "Kosinkadink/ComfyUI-AnimateDiff-Evolved: web/js/deprecate_nodes.js",
         types={"ADEWARN": KEPT}),
    Rule("ComfyUI-AnimateDiff-Evolved", "Kosinkadink/ComfyUI-AnimateDiff-Evolved: web/js/autosize.js",
         types={"ADEAUTOSIZE": KEPT}),
    Rule("ComfyUI-Advanced-ControlNet", "Kosinkadink/ComfyUI-Advanced-ControlNet: web/js/autosize.js",
         types={"ACNAUTOSIZE": KEPT}),
    # Lists that add a word to a text field: the script always sends their caption.
    Rule("ComfyUI-Impact-Pack", _IMPACT, (
        "ImpactWildcardEncode", "ImpactWildcardProcessor", "ToDetailerPipe", "ToDetailerPipeSDXL",
        "EditDetailerPipe", "EditDetailerPipeSDXL", "BasicPipeToDetailerPipe", "BasicPipeToDetailerPipeSDXL"),
        always=_SELECT),
    Rule("ComfyUI-Inspire-Pack", _INSPIRE, ("WildcardEncode //Inspire", "MakeBasicPipe //Inspire"), always=_SELECT),
    Rule("ComfyUI-Inspire-Pack", _INSPIRE, ("PromptBuilder //Inspire",), always={"preset": "#PRESET"}),
    Rule("ComfyUI-Easy-Use", _EASY, ("easy wildcards", "easy wildcardsMatrix"), always=_SELECT),
    Rule("ComfyUI-Easy-Use", _EASY, ("easy prompt",), always=_EASY_PROMPT),
    # Texts that the server fills from wildcards when it takes the prompt.
    Rule("ComfyUI-Impact-Pack", _IMPACT, ("ImpactWildcardEncode", "ImpactWildcardProcessor"),
         loaded=("impact_mode",), queued=("populated",)),
    Rule("ComfyUI-Inspire-Pack", _INSPIRE, ("WildcardEncode //Inspire", "MakeBasicPipe //Inspire"),
         loaded=("impact_mode",), queued=("populated",)),
    Rule("ComfyUI-Impact-Pack", _IMPACT_IMAGE, ("PreviewBridge", "PreviewBridgeLatent"),
         queued=("preview_bridge",)),
    # Seeds that mean "another one at each run".
    Rule("efficiency-nodes-comfyui", "jags111/efficiency-nodes-comfyui: js/seedcontrol.js", (
        "KSampler (Efficient)", "KSampler Adv. (Efficient)", "KSampler SDXL (Eff.)", "Noise Control Script",
        "HighRes-Fix Script", "Tiled Upscaler Script"), queued=("random_seed",)),
    Rule("rgthree-comfy", _RGTHREE + "seed.js", ("Seed (rgthree)",), queued=("random_seed",)),
    Rule("comfyui-prompt-reader-node", "receyuki/comfyui-prompt-reader-node: js/seedGen.js",
         ("SDParameterGenerator",), queued=("random_seed",)),
    # Values that live in the node's properties.
    Rule("ComfyUI-mxToolkit", _MX + "Slider.js", ("mxSlider",), loaded=("mx_slider",)),
    Rule("ComfyUI-mxToolkit", _MX + "Slider2D.js", ("mxSlider2D",), loaded=("mx_slider",)),
    # rgthree: widgets that no definition declares, and declared ones that the script removes.
    Rule("rgthree-comfy", _RGTHREE + "power_lora_loader.js", ("Power Lora Loader (rgthree)",),
         loaded=("power_loras",), own_values=True),
    Rule("rgthree-comfy", _RGTHREE + "power_puter.js", ("Power Puter (rgthree)",), added=("outputs", "code")),
    Rule("rgthree-comfy", _RGTHREE + "power_primitive.js", ("Power Primitive (rgthree)",), added=("type", "value"),
         note="sends its value as `value`, which its server code reads; editor 1.58 sends it under another name"),
    Rule("rgthree-comfy", _RGTHREE + "base_power_prompt.js",
         ("Power Prompt (rgthree)", "Power Prompt - Simple (rgthree)", "SDXL Power Prompt - Positive (rgthree)",
          "SDXL Power Prompt - Simple / Negative (rgthree)"),
         without=("insert_saved", "target_*", "crop_*", "values_*")),
    # Names of files with the time or other nodes' values in them.
    Rule("ComfyUI-KJNodes", "kijai/ComfyUI-KJNodes: web/js/jsnodes.js",
         ("SaveImageKJ", "SaveImageWithAlpha", "SaveStringKJ", "DecodeAndSaveVideo", "ModelSaveKJ", "LoraExtractKJ"),
         tokens=("filename_prefix",)),
    Rule("ComfyUI-Easy-Use", _EASY_OLD,
         ("easy imageSave", "easy fullkSampler", "easy kSampler", "easy kSamplerTiled", "easy kSamplerInpainting",
          "easy kSamplerDownscaleUnet", "easy kSamplerSDTurbo", "easy detailerFix"),
         tokens=("filename_prefix", "save_prefix")),
    # Values that a script draws anew when a file is opened.
    Rule("ComfyUI-KJNodes", "kijai/ComfyUI-KJNodes: web/js/editors/spline_editor_canvas.js", ("SplineEditor",),
         note="draws its path anew when the editor opens the file; the points that were saved are sent"),
    Rule("ComfyUI-LTXVideo", "Lightricks/ComfyUI-LTXVideo: web/js/sparse_track_editor.js", ("LTXVSparseTrackEditor",),
         note="draws its tracks anew when the editor opens the file; the points that were saved are sent"),
    Rule("ComfyUI-Impact-Pack", _IMPACT_IMAGE, ("ImageReceiver",), queued=("image_data",)),
    Rule("ComfyUI-Inspire-Pack", "ltdrdata/ComfyUI-Inspire-Pack: js/image_util.js", ("LoadImage //Inspire",),
         queued=("image_data",)),
    # Nodes that only the browser knows.
    Rule("ComfyUI-KJNodes", "kijai/ComfyUI-KJNodes: web/js/setgetnodes.js", ("SetNode",), virtual=SETTER,
         partner="GetNode"),
    Rule("ComfyUI-KJNodes", "kijai/ComfyUI-KJNodes: web/js/setgetnodes.js", ("GetNode",), virtual=GETTER),
    Rule("ComfyUI-Easy-Use", "yolain/ComfyUI-Easy-Use: web_version/v1/js/getset.js", ("easy setNode",),
         virtual=SETTER, partner="easy getNode"),
    Rule("ComfyUI-Easy-Use", "yolain/ComfyUI-Easy-Use: web_version/v1/js/getset.js", ("easy getNode",),
         virtual=GETTER),
    Rule("rgthree-comfy", _RGTHREE + "reroute.js", ("Reroute (rgthree)",), virtual=REROUTE),
    Rule("ComfyUI-Custom-Scripts", "pythongosssss/ComfyUI-Custom-Scripts: web/js/reroutePrimitive.js",
         ("ReroutePrimitive|pysssss", "Reroute Primitive"), virtual=REROUTE),
    Rule("ComfyUI-mxToolkit", _MX + "Reroute.js", ("mxReroute",), virtual=REROUTE),
    Rule("rgthree-comfy", _RGTHREE + "base_node.js", (
        "Fast Muter (rgthree)", "Fast Bypasser (rgthree)", "Fast Groups Muter (rgthree)",
        "Fast Groups Bypasser (rgthree)", "Fast Actions Button (rgthree)", "Mute / Bypass Relay (rgthree)",
        "Mute / Bypass Repeater (rgthree)", "Random Unmuter (rgthree)", "Bookmark (rgthree)", "Label (rgthree)",
        "Power Conductor (rgthree)", "Node Collector (rgthree)", "Node Combiner (rgthree)", "Bookmark"),
        virtual=PANEL),
    Rule("ComfyUI-Easy-Use", "yolain/ComfyUI-Easy-Use: web_version/v1/js/bookmark.js", ("easy bookmark",),
         virtual=PANEL),
    Rule("comfyui-deploy", "BennyKok/comfyui-deploy: web-plugin/index.js", ("ComfyDeploy",), virtual=PANEL),
    Rule("comfy_mtb", "melMass/comfy_mtb: web/note_plus.js", ("Note Plus (mtb)",), virtual=PANEL),
    Rule("ComfyUI-Crystools", "crystian/ComfyUI-Crystools: web/debugger.js", ("Show Metadata [Crystools]",),
         virtual=PANEL),
    Rule("ComfyUI-Custom-Scripts", "pythongosssss/ComfyUI-Custom-Scripts: web/js/presetText.js",
         ("PresetText|pysssss",), virtual=PANEL,
         refused="its text is kept in the browser that saved the file"),
    Rule("ComfyUI-Custom-Scripts", "pythongosssss/ComfyUI-Custom-Scripts: web/js/repeater.js",
         ("Repeater|pysssss",), refused="the editor copies the nodes behind it while it queues the graph"),
    Rule("cg-use-everywhere", "chrisgoringe/cg-use-everywhere: js/use_everywhere.js",
         ("Anything Everywhere", "Anything Everywhere?", "Anything Everywhere3", "Prompts Everywhere",
          "Seed Everywhere"), virtual=BROADCAST),
)  # fmt: skip


@cache
def _exact() -> dict[str, tuple[Rule, ...]]:
    found: dict[str, list[Rule]] = {}
    for rule in RULES:
        for name in rule.classes:
            if not name.endswith("*"):
                found.setdefault(name, []).append(rule)
    return {name: tuple(rules) for name, rules in found.items()}


@cache
def _open_ended() -> tuple[tuple[str, Rule], ...]:
    return tuple((name[:-1], rule) for rule in RULES for name in rule.classes if name.endswith("*"))


def of_class(kind: str) -> tuple[Rule, ...]:
    """The rows that name a class, in the table's order with open-ended names last."""
    return (
        *_exact().get(kind, ()),
        *(rule for start, rule in _open_ended() if kind.startswith(start)),
    )


@cache
def _of_types() -> dict[str, Rule]:
    return {kind: rule for rule in RULES if not rule.classes for kind in rule.types}


def of_type(name: str, kind: str) -> Rule | None:
    """The row that gives inputs of a declared type a widget, in this class or in every one."""
    return next((rule for rule in of_class(name) if kind in rule.types), None) or _of_types().get(kind)


def of_kind(virtual: str) -> Iterator[tuple[str, Rule]]:
    """Each class that does this with links, with its row."""
    for rule in RULES:
        if rule.virtual == virtual:
            yield from ((name, rule) for name in rule.classes)


def virtual_kind(kind: str) -> str:
    """What a browser-only class does with links; empty for other classes."""
    return next((rule.virtual for rule in of_class(kind) if rule.virtual), "")


def removed(kind: str, name: str) -> bool:
    """Whether a pack's script removes the widget of this declared input."""
    return any(_covers(pattern, name) for rule in of_class(kind) for pattern in rule.without)


def named_list(kind: str, values: Any) -> dict[str, Any] | None:
    """The values of an older file's list by the names that its pack gave them; None where no row says so."""
    for rule in of_class(kind):
        if rule.listed and isinstance(values, list) and len(values) >= len(rule.listed):
            named = {name: value for name, value in zip(rule.listed, values, strict=False) if name}
            # A size in words shows the older order; a list of today's values has a number there.
            if isinstance(named.get("force_size", ""), str):
                return named
    return None


def renamed(kind: str) -> dict[str, str]:
    """The old names of a class's inputs, each with the name it has now."""
    return {old: new for rule in of_class(kind) for old, new in rule.renamed.items()}


def takes_tokens(kind: str, name: str) -> bool:
    """Whether %date:...% and %Node.widget% are replaced in this input."""
    return any(name in rule.tokens for rule in of_class(kind))


def _covers(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
