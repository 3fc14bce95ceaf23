"""Node classes that do more than make pictures: what each does, and the public file it was found in. Tables only.

Most rows rest on a scan of the calls that each class makes, with spot reading of the source; not every row was read
in full. A class is listed when the workflow chooses the code, the program's arguments, the file, the folder or the
address, not when it calls a program or `eval` on a fixed text alone.
"""

from __future__ import annotations

from typing import NamedTuple

EVAL = "runs code given in the workflow"
FORMULA = "evaluates a formula given in the workflow, in a limited language"
SHELL = "runs programs on the server"
INSTALL = "installs software on the server"
SEND = "sends data to a service on the network"
DELETE = "moves or deletes files"
FETCH = "fetches addresses from the network"
WRITE = "writes files where the workflow says"
READ = "reads files where the workflow says"
SCREEN = "reads the screen of the server"
CAMERA = "reads the camera of the server"
PICKLE = "loads a file type that can run code"

# What a class does -> (stable code, severity).
KINDS: dict[str, tuple[str, str]] = {
    EVAL: ("runs_code", "high"),
    FORMULA: ("evaluates_formula", "low"),
    SHELL: ("runs_programs", "high"),
    INSTALL: ("runs_programs", "high"),
    SEND: ("sends_data", "high"),
    DELETE: ("deletes_files", "high"),
    FETCH: ("fetches_addresses", "medium"),
    WRITE: ("writes_files", "medium"),
    READ: ("reads_files", "medium"),
    SCREEN: ("reads_screen", "high"),
    CAMERA: ("reads_camera", "high"),
    PICKLE: ("loads_pickles", "medium"),
}


class Row(NamedTuple):
    """Classes from one source file that do the same thing. source: repository, path in it."""

    does: str
    source: tuple[str, str]
    classes: tuple[str, ...]


ROWS: tuple[Row, ...] = (
    # Code of the workflow.
    Row(EVAL, ("CavinHuang/comfyui-nodes-docs", "nodes-docs/en-US/ComfyUI_Fill-Nodes/FL_CodeNode.md"), ("FL_CodeNode",)),
    Row(EVAL, ("rgthree/rgthree-comfy", "py/power_puter.py"), ("Power Puter (rgthree)",)),
    Row(EVAL, ("yorkane/ComfyUI-KYNode", "py/KY_Eval_Python.py"), ("KY_Eval_Python",)),
    Row(EVAL, ("AlekPet/ComfyUI_Custom_Nodes_AlekPet", "IDENode/ide_node.py"), ("IDENode",)),
    Row(EVAL, ("christian-byrne/python-interpreter-node", "python_interpreter_node.py"), ("Exec Python Code Script",)),
    Row(EVAL, ("tony-zn/comfyui-zn-pycode", "pycode.py"), ("ZnPyCode: CustomCode",)),
    Row(EVAL, ("heshengtao/comfyui_LLM_party", "custom_tool/new_interpreter.py"), ("new_interpreter_tool",)),
    Row(EVAL, ("heshengtao/comfyui_LLM_party", "tools/interpreter.py"), ("interpreter_tool", "interpreter_function")),
    Row(EVAL, ("StableDiffusionVN/SDVN_Comfy_node", "node/api.py"), ("SDVN Run Python Code",)),
    Row(EVAL, ("ClownsharkBatwing/RES4LYF", "sigmas.py"), ("Sigmas Math1", "Sigmas Math3")),
    Row(EVAL, ("yolain/ComfyUI-Easy-Use", "py/nodes/logic.py"), ("easy simpleMath", "easy simpleMathDual")),
    Row(EVAL, ("Extraltodeus/ComfyUI-AutomaticCFG", "nodes.py"), ("Automatic CFG - Advanced",)),
    Row(EVAL, ("seanlynch/srl-nodes", "__init__.py"), ("SRL Eval", "SRL Format String")),
    Row(EVAL, ("godmt/ComfyUI-List-Utils", "nodes.py"), ("GODMT_Exec",)),
    Row(EVAL, ("jn-jairo/jn_comfyui", "nodes/other.py"), ("JN_Exec", "JN_ExecOutput")),
    Row(EVAL, ("flyingshutter/As_ComfyUI_CustomNodes", "asnodes.py"), ("Eval_AS",)),
    Row(EVAL, ("changwook987/ComfyUI-Small-Utility", "py/evaluation.py"), ("Eval",)),
    Row(EVAL, ("xXAdonesXx/NodeGPT", "EVAL.py"), ("EVAL",)),
    Row(EVAL, ("bash-j/mikey_nodes", "mikey_nodes.py"), ("EvalFloats",)),
    Row(EVAL, ("lks-ai/anynode", "nodes/any.py"), ("AnyNode", "AnyNodeLocal", "AnyNodeGemini", "AnyNodeAnthropic")),
    Row(EVAL, ("strand1/ComfyUI-Autogen", "autogen_code_executor.py"), ("AutogenCodeExecutor",)),
    Row(EVAL, ("griptape-ai/ComfyUI-Griptape", "__init__.py"), ("Griptape Code: Run Python [DEPRECATED]",)),
    Row(EVAL, ("omar92/ComfyUI-QualityOfLifeSuit_Omar92", "src/QualityOfLifeSuit_Omar92.py"),
        ("Equation1param _O", "Equation2params _O")),
    Row(EVAL, ("ruiqutech/ComfyUI-RuiquNodes", "nodes_Any.py"),
        ("EvaluateMultiple1", "EvaluateMultiple3", "EvaluateMultiple6", "EvaluateMultiple9")),
    # A formula language, not Python.
    Row(FORMULA, ("jags111/efficiency-nodes-comfyui", "efficiency_nodes.py"),
        ("Evaluate Integers", "Evaluate Floats", "Evaluate Strings", "Simple Eval Examples")),
    Row(FORMULA, ("hay86/ComfyUI_AceNodes", "nodes.py"), ("ACE_Expression_Eval",)),
    # Programs.
    Row(SHELL, ("celsojr2013/comfyui_jamworks_client", "jamworks_client.py"), ("Shell_Command",)),
    Row(SHELL, ("yorkane/ComfyUI-KYNode", "py/KY_FFmpeg.py"), ("KY_FFmpegCustomCmd",)),
    Row(SHELL, ("hay86/ComfyUI_AceNodes", "nodes.py"), ("ACE_VideoConcat",)),
    Row(SHELL, ("sakura1bgx/ComfyUI_FlipStreamViewer", "flipstreamviewer.py"), ("FlipStreamShutdown",)),
    Row(SHELL, ("melMass/comfy_mtb", "nodes/postshot.py"), ("Postshot Train (mtb)", "Postshot Export (mtb)")),
    Row(SHELL, ("filliptm/ComfyUI_Fill-Nodes", "nodes/wip/FL_WF_Agent.py"), ("FL_WF_Agent",)),
    Row(SHELL, ("heshengtao/comfyui_LLM_party", "custom_tool/discord_bot.py"), ("discord_bot",)),
    Row(INSTALL, ("nunchaku-tech/ComfyUI-nunchaku", "nodes/tools/installers.py"), ("NunchakuWheelInstaller",)),
    # Screen and camera.
    Row(SCREEN, ("kijai/ComfyUI-KJNodes", "nodes/image_nodes.py"), ("Screencap_mss", "ImageGrabPIL", "ScreencapStream")),
    Row(SCREEN, ("toyxyz/ComfyUI_toyxyz_test_nodes", "nodes/toyxyz_test_nodes.py"), ("Direct Screen Capture",)),
    Row(SCREEN, ("sakura1bgx/ComfyUI_FlipStreamViewer", "flipstreamviewer.py"), ("FlipStreamScreenGrabber",)),
    Row(SCREEN, ("blueraincoatli/comfyUI_SillyNodes", "screenshots.py"), ("Screenshots|SillyNode",)),
    Row(SCREEN, ("Amorano/Jovi_Capture", "core/node_monitor.py"), ("MONITOR (JOV_CAPTURE)",)),
    Row(SCREEN, ("shadowcz007/comfyui-mixlab-nodes", "nodes/ScreenShareNode.py"), ("ScreenShare",)),
    Row(SCREEN, ("zfkun/ComfyUI_zfkun", "__init__.py"), ("ZFShareScreen",)),
    Row(CAMERA, ("kijai/ComfyUI-KJNodes", "nodes/image_nodes.py"), ("WebcamCaptureCV2",)),
    Row(CAMERA, ("toyxyz/ComfyUI_toyxyz_test_nodes", "nodes/toyxyz_test_nodes.py"), ("CaptureWebcam", "LoadWebcamImage")),
    Row(CAMERA, ("Amorano/Jovi_Capture", "core/node_webcam.py"), ("CAMERA (JOV_CAPTURE)",)),
    Row(CAMERA, ("uetuluk/comfyui-webcam-node", "webcam_capture_node.py"), ("webcam_capture_node",)),
    Row(CAMERA, ("xuhongming251/ComfyUI_Camera", "nodes.py"), ("Load Image From Local Camera",)),
    Row(CAMERA, ("ryanontheinside/ComfyUI_RealtimeNodes", "node_wrappers/utils/misc_nodes.py"), ("FastWebcamCapture",)),
    # Data sent out.
    Row(SEND, ("WASasquatch/was-node-suite-comfyui", "WAS_Node_Suite.py"), ("Image Send HTTP",)),
    Row(SEND, ("felixszeto/ComfyUI-RequestNodes", "__init__.py"),
        ("Post Request Node", "Form Post Request Node", "Rest Api Node")),
    Row(SEND, ("city96/ComfyUI_NetDist", "nodes/images.py"), ("SaveImageUrl",)),
    Row(SEND, ("filliptm/ComfyUI_Fill-Nodes", "nodes/discord/FL_DiscordWebhook.py"), ("FL_SendToDiscordWebhook",)),
    Row(SEND, ("filliptm/ComfyUI_Fill-Nodes", "nodes/hugging_face/FL_HFHubModelUploader.py"), ("FL_HFHubModelUploader",)),
    Row(SEND, ("heshengtao/comfyui_LLM_party", "custom_tool/image_hosting.py"), ("img_hosting",)),
    Row(SEND, ("heshengtao/comfyui_LLM_party", "tools/api_tool.py"), ("api_function",)),
    Row(SEND, ("heshengtao/comfyui_LLM_party", "tools/dingding.py"), ("Dingding",)),
    Row(SEND, ("heshengtao/comfyui_LLM_party", "tools/wechat.py"), ("work_wechat",)),
    Row(SEND, ("heshengtao/comfyui_LLM_party", "custom_tool/file_online_storage.py"), ("FileOnlineStorage_gitee",)),
    Row(SEND, ("heshengtao/comfyui_LLM_party", "custom_tool/feishu_send_msg.py"), ("FeishuSendMsg",)),
    Row(SEND, ("yorkane/ComfyUI-KYNode", "py/KY_Uploads.py"), ("KY_Uploads",)),
    # Files moved or deleted.
    Row(DELETE, ("heshengtao/comfyui_LLM_party", "custom_tool/folder_clear.py"), ("FolderCleaner",)),
    Row(DELETE, ("heshengtao/comfyui_LLM_party", "tools/clear_file.py"), ("clear_file",)),
    Row(DELETE, ("yolain/ComfyUI-Easy-Use", "py/nodes/image.py"), ("easy removeLocalImage",)),
    # Addresses fetched.
    Row(FETCH, ("felixszeto/ComfyUI-RequestNodes", "__init__.py"), ("Get Request Node",)),
    Row(FETCH, ("WASasquatch/was-node-suite-comfyui", "WAS_Node_Suite.py"), ("Image Load",)),
    Row(FETCH, ("sipherxyz/comfyui-art-venture", "modules/utility_nodes.py"),
        ("LoadImageFromUrl", "LoadImageAsMaskFromUrl", "LoadJsonFromUrl")),
    Row(FETCH, ("city96/ComfyUI_NetDist", "nodes/images.py"), ("LoadImageUrl",)),
    Row(FETCH, ("city96/ComfyUI_NetDist", "nodes/latents.py"), ("LoadLatentUrl",)),
    Row(FETCH, ("melMass/comfy_mtb", "nodes/image_processing.py"), ("Load Image From Url (mtb)",)),
    Row(FETCH, ("Kosinkadink/ComfyUI-VideoHelperSuite", "videohelpersuite/load_video_nodes.py"),
        ("VHS_LoadVideoPath", "VHS_LoadVideoFFmpegPath")),
    Row(FETCH, ("Kosinkadink/ComfyUI-VideoHelperSuite", "videohelpersuite/load_images_nodes.py"), ("VHS_LoadImagePath",)),
    Row(FETCH, ("Kosinkadink/ComfyUI-VideoHelperSuite", "videohelpersuite/nodes.py"), ("VHS_LoadAudio",)),
    Row(FETCH, ("liuqianhonga/ComfyUI-Html2Image", "webpage_screenshot_node.py"), ("WebpageScreenshot",)),
    Row(FETCH, ("heshengtao/comfyui_LLM_party", "custom_tool/open_web.py"), ("open_url_tool", "open_url_function")),
    Row(FETCH, ("heshengtao/comfyui_LLM_party", "custom_tool/url2image.py"), ("URL2IMG",)),
    Row(FETCH, ("heshengtao/comfyui_LLM_party", "tools/load_file.py"), ("load_url",)),
    Row(FETCH, ("shadowcz007/comfyui-mixlab-nodes", "nodes/ImageNode.py"), ("LoadImagesFromURL",)),
    Row(FETCH, ("shadowcz007/comfyui-mixlab-nodes", "nodes/FalVideo.py"), ("LoadVideoFromURL",)),
    Row(FETCH, ("StableDiffusionVN/SDVN_Comfy_node", "node/load.py"),
        ("SDVN Load Image", "SDVN Load Image Url", "SDVN LoadPinterest")),
    Row(FETCH, ("griptape-ai/ComfyUI-Griptape", "nodes/loaders/gtUIFetchImage.py"), ("Griptape Load: Image From URL",)),
    # Files written where the workflow says.
    Row(WRITE, ("WASasquatch/was-node-suite-comfyui", "WAS_Node_Suite.py"),
        ("Image Save", "Save Text File", "Export API", "Video Dump Frames", "Write to GIF", "Write to Video",
         "Create Video from Path", "Create Morph Image from Path")),
    Row(WRITE, ("kijai/ComfyUI-KJNodes", "nodes/image_nodes.py"), ("SaveImageKJ", "SaveStringKJ")),
    Row(WRITE, ("yolain/ComfyUI-Easy-Use", "py/nodes/logic.py"), ("easy saveText",)),
    Row(WRITE, ("pythongosssss/ComfyUI-Custom-Scripts", "py/text_files.py"), ("SaveText|pysssss",)),
    Row(WRITE, ("Suzie1/ComfyUI_Comfyroll_CustomNodes", "nodes/nodes_utils_text.py"), ("CR Save Text To File",)),
    Row(WRITE, ("Suzie1/ComfyUI_Comfyroll_CustomNodes", "nodes/nodes_animation_schedules.py"),
        ("CR Output Schedule To File",)),
    Row(WRITE, ("chflame163/ComfyUI_LayerStyle", "py/image_tagger_save.py"),
        ("LayerUtility: ImageTaggerSave", "LayerUtility: ImageTaggerSaveV2")),
    Row(WRITE, ("chflame163/ComfyUI_LayerStyle_Advance", "py/save_image_plus.py"),
        ("LayerUtility: SaveImagePlus", "LayerUtility: SaveImagePlusV2")),
    Row(WRITE, ("melMass/comfy_mtb", "nodes/io.py"), ("Add To Playlist (mtb)",)),
    Row(WRITE, ("filliptm/ComfyUI_Fill-Nodes", "nodes/captioning/FL_Image_Caption_Saver.py"), ("FL_ImageCaptionSaver",)),
    Row(WRITE, ("filliptm/ComfyUI_Fill-Nodes", "nodes/captioning/FL_SaveCSV.py"), ("FL_SaveCSV",)),
    Row(WRITE, ("filliptm/ComfyUI_Fill-Nodes", "nodes/pdf/FL_PDFSaver.py"), ("FL_PDFSaver",)),
    Row(WRITE, ("toyxyz/ComfyUI_toyxyz_test_nodes", "nodes/toyxyz_test_nodes.py"), ("SaveImagetoPath",)),
    Row(WRITE, ("omar92/ComfyUI-QualityOfLifeSuit_Omar92", "src/QualityOfLifeSuit_Omar92.py"), ("saveTextToFile _O",)),
    Row(WRITE, ("hay86/ComfyUI_AceNodes", "nodes.py"), ("ACE_TextSave",)),
    Row(WRITE, ("yorkane/ComfyUI-KYNode", "py/KY_Image.py"), ("KY_SaveImageToPath",)),
    Row(WRITE, ("shadowcz007/comfyui-mixlab-nodes", "nodes/ImageNode.py"), ("SaveImageToLocal",)),
    Row(WRITE, ("StableDiffusionVN/SDVN_Comfy_node", "node/creative.py"), ("SDVN Save Text",)),
    Row(WRITE, ("jamesWalker55/comfyui-various", "comfyui_image_ops.py"), ("JWImageSaveToPath",)),
    Row(WRITE, ("yzkee/ComfyUI", "comfy_extras/nodes_dataset.py"), ("SaveImageDataSetToFolder", "SaveImageTextDataSetToFolder")),
    # Files read where the workflow says.
    Row(READ, ("WASasquatch/was-node-suite-comfyui", "WAS_Node_Suite.py"),
        ("Load Image Batch", "Load Text File", "Text Load Line From File", "Create Grid Image")),
    Row(READ, ("Kosinkadink/ComfyUI-VideoHelperSuite", "videohelpersuite/load_images_nodes.py"), ("VHS_LoadImagesPath",)),
    Row(READ, ("kijai/ComfyUI-KJNodes", "nodes/image_nodes.py"), ("LoadImagesFromFolderKJ", "LoadVideosFromFolder")),
    Row(READ, ("ltdrdata/ComfyUI-Inspire-Pack", "inspire/image_util.py"),
        ("LoadImagesFromDir //Inspire", "LoadImageListFromDir //Inspire")),
    Row(READ, ("Suzie1/ComfyUI_Comfyroll_CustomNodes", "nodes/nodes_list.py"),
        ("CR Load Image List Plus", "CR Load Image List", "CR Load Text List")),
    Row(READ, ("Suzie1/ComfyUI_Comfyroll_CustomNodes", "nodes/nodes_animation_schedules.py"), ("CR Load Schedule From File",)),
    Row(READ, ("yolain/ComfyUI-Easy-Use", "py/nodes/image.py"), ("easy loadImagesForLoop",)),
    Row(READ, ("chflame163/ComfyUI_LayerStyle", "py/load_images_from_path.py"), ("LayerUtility: LoadImagesFromPath",)),
    Row(READ, ("melMass/comfy_mtb", "nodes/batch.py"), ("Batch From Folder (mtb)",)),
    Row(READ, ("melMass/comfy_mtb", "nodes/video.py"), ("Load Image Sequence (mtb)",)),
    Row(READ, ("filliptm/ComfyUI_Fill-Nodes", "nodes/captioning/FL_LoadCSV.py"), ("FL_LoadCSV",)),
    Row(READ, ("filliptm/ComfyUI_Fill-Nodes", "nodes/utility/FL_DirectoryCrawl.py"), ("FL_DirectoryCrawl",)),
    Row(READ, ("filliptm/ComfyUI_Fill-Nodes", "nodes/pdf/FL_PDFLoader.py"), ("FL_PDFLoader",)),
    Row(READ, ("justUmen/Bjornulf_custom_nodes", "load_text.py"), ("Bjornulf_LoadTextFromPath",)),
    Row(READ, ("Chaoses-Ib/ComfyUI_Ib_CustomNodes", "image.py"), ("LoadImageFromPath", "LoadImageFromPathEnhanced")),
    Row(READ, ("receyuki/comfyui-prompt-reader-node", "nodes.py"), ("SDBatchLoader",)),
    Row(READ, ("yorkane/ComfyUI-KYNode", "py/KY_Files.py"), ("KY_GetFromPath",)),
    Row(READ, ("heshengtao/comfyui_LLM_party", "tools/load_file.py"), ("load_file", "load_file_folder", "load_img_path")),
    Row(READ, ("shadowcz007/comfyui-mixlab-nodes", "nodes/ImageNode.py"), ("LoadImagesFromPath",)),
    Row(READ, ("crystian/ComfyUI-Crystools", "nodes/parameters.py"), ("Read JSON file [Crystools]",)),
    Row(READ, ("yzkee/ComfyUI", "comfy_extras/nodes_dataset.py"),
        ("LoadImageDataSetFromFolder", "LoadImageTextDataSetFromFolder", "LoadVideoDataSetFromFolder",
         "LoadVideoTextDataSetFromFolder")),
    # File types that run code when they are opened.
    Row(PICKLE, ("WASasquatch/was-node-suite-comfyui", "WAS_Node_Suite.py"), ("Load Cache",)),
    Row(PICKLE, ("filliptm/ComfyUI_Fill-Nodes", "nodes/utility/FL_ModelInspector.py"), ("FL_ModelInspector",)),
    Row(PICKLE, ("PowerHouseMan/ComfyUI-AdvancedLivePortrait", "nodes.py"), ("LoadExpData",)),
    Row(PICKLE, ("flyingshutter/As_ComfyUI_CustomNodes", "asnodes.py"), ("LoadLatent_AS",)),
)  # fmt: skip

RISKS: dict[str, str] = {name: row.does for row in ROWS for name in row.classes}
SOURCES: dict[str, tuple[str, str]] = {name: row.source for row in ROWS for name in row.classes}

# Words in a class name, for classes without a row: (pattern, what the class may do). Long names are cut first.
WORDS: tuple[tuple[str, str], ...] = (
    (
        r"(?i)\b(python|javascript|lua)\b.*\b(exec|run|eval|script|code|node|expr)|\b(exec|eval|run)[ _]?(python|code|script|js)"
        r"|\b(python|code|script|js)[ _-]?(exec|run|eval|interpret)|\binterpreter\b|^(custom|my)?[ _]?code([ _]?node)?$"
        r"|\b(py|python)[ _-]?(code|snippet|func(tion)?|lambda)\b|\bcode[ _-]?(node|cell|block)\b|\bnotebook[ _-]?cell\b",
        EVAL,
    ),
    (r"(?i)(^|[^a-z])eval(uate)?([^a-z]|$)|(Exec|Eval)(ute|uate)?(Python|Code|Script|Node)?$", EVAL),
    (
        r"(?i)\b(shell|bash|terminal|powershell|subprocess|cmd)\b|(?-i:Shell|Bash|Subprocess|PowerShell)"
        r"|\b(run|exec(ute)?|system|ffmpeg)[ _-]?command",
        SHELL,
    ),
    (
        r"(?i)\b(pip|git)[ _-]?(install|clone|pull)|\binstall[ _-]?(package|module|pip|node|wheel)|\bwheel[ _-]?install",
        INSTALL,
    ),
    (
        r"(?i)\bscreen[ _-]?(cap(ture)?|grab(ber)?|shot|share|record)"
        r"|\b(capture|grab|record|share)[ _-]?(the[ _-])?(screen|desktop)\b"
        r"|\bimage[ _-]?grab\b|\bdesktop[ _-]?(capture|grab)",
        SCREEN,
    ),
    (
        r"(?i)\bweb[ _-]?cam|\bcamera[ _-]?(capture|stream|input|feed|grab)|\b(capture|from|local)[ _-]?camera\b",
        CAMERA,
    ),
    (
        r"(?i)(from|by|load|get|fetch|download)[ _-]?(the[ _-])?ur[li]|\bhttp|(?-i:URL|Url)(?![a-z])|webhook|download"
        r"|\b(web|rest|api)[ _-]?(api[ _-]?)?(request|call)|\brequests?[ _-]?(get|post)\b"
        r"|\bcurl[ _-]?(node|get|request)|web[ _-]?image",
        FETCH,
    ),
    (
        r"(?i)(delete|remove|unlink|erase)[ _-]?(file|folder|dir)|\brmtree\b|(move|copy|rename)[ _-]?file"
        r"|\b(file|folder)s?[ _-]?(delet|remov|mov|eras|clean)|(clear|clean)[ _-]?(folder|dir|file)",
        DELETE,
    ),
    (
        r"(?i)(save|write|append)[ _-]?(text|string|file|csv|json)|to[ _-]?(path|file|folder|dir)\b|\bfile[ _-]?writ"
        r"|\bdump[ _-]?(frames|video|file)|\b(video|file)[ _-]?dump",
        WRITE,
    ),
    (
        r"(?i)(load|read|open)[ _-]?(text|string|file|csv|json)([ _-]?file)?\b|from[ _-]?(path|dir|directory|folder|file)\b",
        READ,
    ),
    (
        r"(?i)(upload|send|post)[ _-]?(to(?![ _-]?(cpu|gpu|cuda|device))|image|file|request)|\b(s?ftp|ssh)\b"
        r"|telegram|discord|\bsmtp\b|\bemail\b|\bs3\b",
        SEND,
    ),
    (r"(?i)pickle|torch[ _-]?load|\bload[ _-]?cache\b|joblib|\bdill\b", PICKLE),
)
# Names that these words suspect, and whose source shows that the workflow chooses neither file, address nor code: models
# from a fixed list, files of the server's own input folder, texts in memory, pictures to the page that submitted the job.
HARMLESS = frozenset(
    {
        "AppendStringsToList", "CR XY From Folder", "CLIPTextEncode", "DownloadAndLoadBlip", "DownloadAndLoadCLIPSeg",
        "DownloadAndLoadDepthCrafterModel",
        "DownloadAndLoadCogVideoControlNet", "DownloadAndLoadCogVideoGGUFModel", "DownloadAndLoadCogVideoModel",
        "DownloadAndLoadDepthAnythingV2Model", "DownloadAndLoadFlorence2Lora", "DownloadAndLoadFlorence2Model",
        "DownloadAndLoadHyVideoTextEncoder", "DownloadAndLoadLivePortraitModels", "DownloadAndLoadSAM2Model",
        "DownloadAndLoadToraModel", "DownloadISNetModel", "ETN_SendImageWebSocket", "GroupLoadImage", "LoadImage",
        "LoadImageOutput", "LoadJsonFromText", "LoadPromptsFromDir //Inspire", "LoadTextEncoderShared //Inspire",
        "PreviewAny", "SaveImageWebsocket", "SaveLoRA", "TextLoadFile",
    }
)  # fmt: skip
